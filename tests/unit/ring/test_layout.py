"""Python's numbers against the compiled header's, and against what is really in shared memory."""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path

import pytest
from ring_tools import publish

from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.ring import Writer, layout

_ROOT = Path(__file__).parents[3]
_FIELDS = [
    "seq",
    "position",
    "length",
    "crc32c",
    "kind",
    "chain",
    "level",
    "flags",
    "height",
    "source",
    "hash",
    "publish_ns",
    "origin_ns",
    "first_byte_ns",
    "last_byte_ns",
    "stamp_ns",
]


def _struct_offsets(format_text: str) -> list[int]:
    offsets, at = [], 0
    for count, code in re.findall(r"(\d*)([A-Za-z])", format_text.lstrip("<")):
        size = struct.calcsize(f"<{count}{code}")
        each = 1 if code in "sx" or not count else int(count)
        if code != "x":
            offsets += [at + size // each * index for index in range(each)]
        at += size
    return offsets


def test_the_descriptor_is_laid_out_as_in_c() -> None:
    assert layout.DESCRIPTOR.size == ffi.sizeof("sp_descriptor") == layout.SLOT_BYTES
    in_c = [ffi.offsetof("sp_descriptor", field) for field in _FIELDS]
    assert _struct_offsets(layout.DESCRIPTOR.format) == in_c


def test_the_header_is_one_page_and_hot_words_have_lines_of_their_own() -> None:
    assert ffi.sizeof("sp_header") == layout.HEADER_BYTES
    hot = [ffi.offsetof("sp_header", f) for f in ("tail_intent", "head_hint", "heartbeat_ns")]
    assert [offset % 128 for offset in hot] == [0, 0, 0]
    assert len(set(hot)) == 3


@pytest.mark.parametrize(
    "name",
    ["SLOT_COUNT_MIN", "SLOT_COUNT_MAX", "ARENA_BYTES_MIN", "ARENA_BYTES_MAX", "PAGE_BYTES",
     "WAKE_BYTES", "WAKE_FLAG_OFFSET", "SOURCES_MAX", "SLOTS_OFFSET"],
)  # fmt: skip
def test_constants_are_those_of_the_header(name: str) -> None:
    assert getattr(layout, name) == getattr(lib, f"SP_{name}")


def test_segment_sizes_are_those_of_c() -> None:
    for slots, arena in ((4, 4096), (16, 1 << 16), (4096, 256 << 20), (65536, 64 << 20)):
        assert layout.segment_bytes(slots, arena) == lib.sp_segment_bytes(slots, arena)


def test_every_offset_in_the_specification_is_the_compiled_one() -> None:
    """docs/ring.md lists `offset | field`; each row must hold."""
    text = (_ROOT / "docs" / "ring.md").read_text(encoding="utf-8")
    checked = 0
    for struct_name in ("sp_header", "sp_descriptor"):
        table = text.split(f"<!-- {struct_name} -->")[1].split("<!-- end -->")[0]
        for offset, field in re.findall(r"^\| (\d+) \| `(\w+)`", table, re.MULTILINE):
            assert ffi.offsetof(struct_name, field) == int(offset), field
            checked += 1
    assert checked >= 40


def test_a_published_frame_lies_where_the_layout_says(writer: Writer, instance: str) -> None:
    publish(writer, b"hello", hash=bytes(range(32)), height=9, source=3, origin_ns=11)
    raw = layout.segment_path(instance, "blocks").read_bytes()
    slot = layout.SLOTS_OFFSET + 1 * layout.SLOT_BYTES
    fields = dict(zip(_FIELDS, layout.DESCRIPTOR.unpack_from(raw, slot), strict=True))
    assert fields["seq"] == 1
    assert (fields["height"], fields["source"], fields["origin_ns"]) == (9, 3, 11)
    assert fields["hash"] == bytes(range(32))
    arena = layout.segment_bytes(16, 1 << 16) - (1 << 16)
    start = arena + fields["position"]
    assert raw[start : start + fields["length"]] == b"hello"


@pytest.mark.parametrize("bad", ["", "-a", "a/b", "a.b", "ä", "x" * 49, "a b"])
def test_an_instance_name_that_is_no_name_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="instance"):
        layout.segment_path(bad, "blocks")


def test_a_ring_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="the rings are blocks, tx"):
        layout.segment_path("main", "coins")


def test_only_native_imports_the_compiled_module() -> None:
    package = _ROOT / "engine" / "bitcoin_sprint"
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if "bitcoin_sprint._native" in names:
                assert path.name == "native.py"
