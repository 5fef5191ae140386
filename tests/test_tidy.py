"""Holds the way of the data: who may import whom, no cycle, nothing dead, files that fit a head.

The rooms and what each may know are described in docs/architecture.md; this file is the same in
a form that fails. Lengths are a guide: what has a reason to be longer stands in a short list.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGE = "bitcoin_sprint"
_SOURCE = _ROOT / "engine" / _PACKAGE
_NATIVE = _ROOT / "native"
_COMPILED = {"_native", "_hot"}

# Upstream first. A room imports itself and what stands before it; rooms of one line know
# nothing of each other's insides but may use each other (errors, frames, native).
_ROOMS = [
    {"episode", "errors", "frames", "native", "ports"},
    {"metrics"},
    {"chains"},
    {"validate"},
    {"ring"},
    {"tiers"},
    {"config"},
    {"ingest"},
    {"transports"},
    {"relay"},
    {"client"},
    {"control"},
]

# The client library is for other people's processes: it must not drag the engine in.
_CLIENT_KNOWS = {
    "bitcoin_sprint.errors",
    "bitcoin_sprint.frames",
    "bitcoin_sprint.native",
    "bitcoin_sprint.ring",
    "bitcoin_sprint.transports",
    "bitcoin_sprint.client",
}
_WIRE_FORMATS = {"codec", "handshake", "block_payload"}

# Where a user or the interpreter comes in.
_ENTRIES = {
    "bitcoin_sprint.control.entry",
    "bitcoin_sprint.control.cli",
    "bitcoin_sprint.control.sprintd",
    "bitcoin_sprint.control.nursery",
    "bitcoin_sprint.ring",
    "bitcoin_sprint.client",
}

# Modules through which blocks and transactions enter: they speak to the intake and to nobody else.
_FEEDS = re.compile(
    r"(p2p|zmq)_\w+|node_(fetch|order|resync|rpc|watch)|peers|rpc|replay|body_fetcher"
)
_NOT_FOR_FEEDS = ("bitcoin_sprint.ring", "bitcoin_sprint.validate.header_chain")

# 400 lines are many; over 500 somebody has to say why.
_FILE_LINES_MAX = 500
_LONGER_FILES = {
    "native/include/sprint.h": "header-only by contract: the one home of the reader's protocol",
}
_FUNCTION_LINES_MAX = 70
_LONGER_FUNCTIONS: dict[str, str] = {}

_NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helper", "helpers", "manager", "core",
                           "base", "misc"}  # fmt: skip


@cache
def _modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package by the package's name."""
    found = {}
    for path in sorted(_SOURCE.rglob("*.py")):
        parts = [_PACKAGE, *path.relative_to(_SOURCE).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_modules()[module].read_text(encoding="utf-8"))


def _resolve(name: str) -> str | None:
    """The module of ours that ``name`` leads to: itself, or what contains it."""
    while name.startswith(_PACKAGE):
        if name in _modules():
            return name
        name = name.rpartition(".")[0]
    return None


@cache
def _imports(module: str, *, at_run_time: bool = False) -> frozenset[str]:
    """Modules of ours that ``module`` imports anywhere, those named in texts for importlib too;
    ``at_run_time`` leaves out what only the type checker sees."""
    found = set()
    for node in _nodes(_tree(module), at_run_time):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the way of the data"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = node.module == _PACKAGE and module != _PACKAGE
            for name in names if ours else []:
                known = name in _modules() or name.rpartition(".")[2] in _COMPILED
                assert known, f"{module}: import {name} from the room that it stands in"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if node.value in _modules() else []
        found |= {resolved for name in names if (resolved := _resolve(name))}
    return frozenset(found - {module, _PACKAGE})


def _nodes(node: ast.AST, at_run_time: bool) -> Iterator[ast.AST]:
    yield node
    if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from _nodes(child, at_run_time)


def _room(module: str) -> str:
    return module.split(".")[1]


def _rank(module: str) -> int:
    for rank, rooms in enumerate(_ROOMS):
        if _room(module) in rooms:
            return rank
    raise AssertionError(f"{module}: its room is not in the order of the rooms; place it there")


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


_ALL = [name for name in _modules() if name != _PACKAGE]


@pytest.mark.parametrize("module", _ALL)
def test_a_module_imports_nothing_downstream(module):
    downstream = {name for name in _imports(module) if _rank(name) > _rank(module)}
    assert not downstream, f"{module} imports {sorted(downstream)}"


def test_no_modules_import_each_other_in_a_circle():
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(module: str) -> None:
        state[module] = 1
        path.append(module)
        for name in sorted(_imports(module, at_run_time=True)):
            assert state.get(name) != 1, " → ".join([*path[path.index(name) :], name])
            if name not in state:
                visit(name)
        path.pop()
        state[module] = 2

    for module in _ALL:
        if module not in state:
            visit(module)


def _reached_from(modules: Iterable[str]) -> set[str]:
    """``modules``, all that they import, and the packages around them."""
    reached = set(modules)
    frontier = list(reached)
    while frontier:
        module = frontier.pop()
        for name in {*_imports(module), module.rpartition(".")[0]} - {_PACKAGE} - reached:
            reached.add(name)
            frontier.append(name)
    return reached


def test_no_module_is_dead():
    dead = set(_ALL) - _reached_from(_ENTRIES)
    assert not dead, f"no entry leads to {sorted(dead)}"


def test_only_native_imports_the_compiled_modules():
    users = set()
    for module in _ALL:
        for node in ast.walk(_tree(module)):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
            if any(str(name).rpartition(".")[2] in _COMPILED for name in names):
                users.add(module)
    assert users == {"bitcoin_sprint.native"}


def test_only_ingest_writes_rings():
    users = {
        module
        for module in _ALL
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith("bitcoin_sprint.ring")
        and any(alias.name == "Writer" for alias in node.names)
    }
    assert {_room(module) for module in users} <= {"ring", "ingest"}


def test_feeds_speak_to_the_intake_only():
    for module in _ALL:
        if _room(module) == "ingest" and _FEEDS.fullmatch(module.rpartition(".")[2]):
            known = {
                name
                for name in _imports(module)
                if any(_is_within(name, package) for package in _NOT_FOR_FEEDS)
            }
            assert not known, f"{module} knows {sorted(known)}"


def test_the_client_does_not_drag_the_engine_in():
    clients = [module for module in _ALL if _room(module) == "client"]
    for module in _reached_from(clients):
        known = any(_is_within(module, name) for name in _CLIENT_KNOWS)
        assert known, f"bitcoin_sprint.client leads to {module}"
        if _room(module) == "transports" and module.count(".") == 2:
            assert module.rpartition(".")[2] in _WIRE_FORMATS, f"the client leads to {module}"


def test_a_folder_has_two_modules_at_least_and_folders_are_three_deep_at_most():
    for module, path in _modules().items():
        assert module.count(".") <= 3, f"{module} lies too deep"
        if path.name == "__init__.py" and module != _PACKAGE:
            assert len(list(path.parent.glob("*.py"))) > 2, f"{module} is a folder for one module"


@pytest.mark.parametrize("module", _ALL)
def test_a_module_has_a_name_that_says_something_and_a_docstring(module):
    assert module.rpartition(".")[2] not in _NAMES_THAT_SAY_NOTHING
    assert ast.get_docstring(_tree(module)), f"{module} has no docstring"


def _source_files() -> list[Path]:
    return [
        path
        for folder in ("engine/bitcoin_sprint", "native", "bench")
        for path in (_ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h"}
    ]


def test_a_file_is_one_room():
    long = {
        path.relative_to(_ROOT).as_posix(): count
        for path in _source_files()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > _FILE_LINES_MAX
    }
    assert set(long) <= set(_LONGER_FILES), f"over {_FILE_LINES_MAX} lines: {long}"


def test_a_function_fits_a_screen():
    long = {}
    for module in _ALL:
        for node in ast.walk(_tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > _FUNCTION_LINES_MAX:
                    long[f"{module}.{node.name}"] = lines
    assert set(long) <= set(_LONGER_FUNCTIONS), f"over {_FUNCTION_LINES_MAX} lines: {long}"


def test_the_tolerated_are_still_there():
    for name in _LONGER_FILES:
        assert (_ROOT / name).is_file(), f"{name} is gone; take it off the list"


def test_unit_tests_stand_where_what_they_test_stands():
    unit = _ROOT / "tests" / "unit"
    for path in unit.rglob("test_*.py"):
        folder = path.parent.relative_to(unit)
        mirrored = [_SOURCE / folder, _ROOT / folder]
        where = path.relative_to(_ROOT)
        assert any(each.is_dir() for each in mirrored), f"{where}: there is no folder {folder}"


_ORDERED = re.compile(
    r"\bSP_(LOAD_ACQUIRE|STORE_RELEASE|EXCHANGE|FENCE_(ACQUIRE|RELEASE|SEQ_CST))\("
)
_ATOMIC = re.compile(r"\b__atomic_\w+\(.*__ATOMIC_")
_SYNC_WITHIN_LINES = 12


def test_every_ordered_access_names_its_partner():
    for path in sorted([*_NATIVE.rglob("*.c"), *_NATIVE.rglob("*.h")]):
        lines = path.read_text(encoding="utf-8").splitlines()
        marks = [number for number, line in enumerate(lines) if "SYNC:" in line]
        for number, line in enumerate(lines):
            where = f"{path.relative_to(_ROOT)}:{number + 1}"
            if line.lstrip().startswith("#define"):
                continue
            if _ORDERED.search(line) or (_ATOMIC.search(line) and "RELAXED" not in line):
                near = any(abs(number - mark) <= _SYNC_WITHIN_LINES for mark in marks)
                assert near, f"{where}: no `SYNC: pairs with …` near this access"
