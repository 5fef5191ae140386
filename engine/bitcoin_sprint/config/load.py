"""Reading the configuration: layers over layers, then one check of what goes together."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from bitcoin_sprint.chains import NETWORKS
from bitcoin_sprint.config.addresses import check_host_port, without_credentials
from bitcoin_sprint.config.agreement import Agreement
from bitcoin_sprint.config.keys import KEYS, key_named, shown, unknown
from bitcoin_sprint.config.schema import Config
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.tiers import ALIASES, TIERS, tier_named

DEFAULT_FILE: Final = Path(__file__).resolve().parent.parent / "default.toml"

_CONTRACT_VARIABLES: Final = {
    "TIER": "tier",
    "USE_SHARED_MEMORY": "use_shared_memory",
    "USE_DIRECT_P2P": "use_direct_p2p",
    "USE_MEMORY_CHANNEL": "use_memory_channel",
    "OPTIMIZE_SYSTEM": "optimize_system",
    "ENABLE_KERNEL_BYPASS": "enable_kernel_bypass",
}
_VARIABLES: Final = {key.variable: key for key in KEYS.values()}
# SPRINT_ variables of the project's own tests and build, no keys of the engine.
_FOREIGN_VARIABLES: Final = re.compile("SPRINT_(TEST_|STRESS_|REQUIRE_|SANITIZE|BENCH_)")
_DOTENV_LINE: Final = re.compile(
    r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*("[^"]*"|'[^']*'|(?!["'])\S.*?|)"""
    r"""(?:\s+\#.*)?\s*"""
)

_CONFIG_VARIABLE: Final = "SPRINT_CONFIG"
_PEERS: Final = "ingest.p2p"
_NODES: Final = "ingest.zmq"

# A value as it was given and where it stood, by the key's path.
_Layer = dict[str, tuple[object, str]]


class Loaded(msgspec.Struct, frozen=True):
    """A configuration and where each of its values stood, by the key's path.

    ``warnings``: a line for each thing that may come to be wrong.
    """

    config: Config
    sources: dict[str, str]
    warnings: list[str] = []


def load(
    config_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = None,
) -> Config:
    """Return the configuration; see ``load_with_sources``."""
    return load_with_sources(config_file, overrides, environ, dotenv).config


def load_with_sources(
    config_file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = None,
) -> Loaded:
    """Read flags over environment over ``.env`` over the TOML file over ``default.toml``.

    ``overrides`` maps a key's path to its value (TOML types, or text as in the environment);
    ``environ`` is the process's environment, nothing when None; ``dotenv`` a file that may be
    missing; ``config_file`` one that must exist, by default what SPRINT_CONFIG names.
    Raises ConfigError, which names key, value, where it stood, and the bound.
    """
    environ = environ or {}
    dotenv_variables = _read_dotenv(dotenv) if dotenv is not None else {}
    named = environ.get(_CONFIG_VARIABLE) or dotenv_variables.get(_CONFIG_VARIABLE)
    config_file = config_file or (Path(named) if named else None)
    layers = [_toml_layer(DEFAULT_FILE, "default.toml")]
    if config_file is not None:
        layers.append(_toml_layer(config_file, str(config_file)))
    layers.append(_variables_layer(dotenv_variables, str(dotenv), layers))
    layers.append(_variables_layer(environ, "environment", layers))
    layers.append(
        {path: (value, "flag") for path, value in (overrides or {}).items() if value is not None}
    )
    merged: _Layer = {}
    for layer in layers:
        merged.update(layer)
    values = {
        path: key_named(path, source).convert(value, source)
        for path, (value, source) in merged.items()
    }
    sources = {path: source for path, (_, source) in merged.items()}
    _complete(values, sources, environ)
    config = _assemble(values)
    Agreement(config, sources).check()
    return Loaded(config, sources)


def render(config: Config) -> dict[str, Any]:
    """Return every value by its key's path, as it is written in files; secrets hidden."""
    rendered = {}
    for path, key in KEYS.items():
        value = key.render(_value_at(config, path, key.field))
        rendered[path] = [_without_secrets(node) for node in value] if path == _NODES else value
    return rendered


def _without_secrets(node: dict[str, Any]) -> dict[str, Any]:
    password = "***" if node["rpc_password"] else ""
    return node | {"rpc_password": password, "rpc_url": without_credentials(node["rpc_url"])}


def _value_at(config: Config, path: str, field: str) -> Any:
    value: Any = config
    for part in path.split(".")[:-1]:
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return getattr(value, field)


def _toml_layer(path: Path, source: str) -> _Layer:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: tables or lists too deep within each other") from None
    except ValueError as error:  # tomllib's own, with the line; or a number too long to be one
        raise ConfigError(f"{path}: {error}") from None
    return {key: (value, source) for key, value in _flatten(document, "")}


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and path not in KEYS:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _read_dotenv(path: Path) -> dict[str, str]:
    """Return what a ``.env`` says; nothing where there is none, or a folder of that name."""
    try:
        if not path.is_file():
            return {}
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8: {error}") from None
    variables = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _DOTENV_LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"{path}, line {number}: must be KEY=value")
        name, value = match.groups()
        if len(value) >= 2 and value[0] in "'\"" and value[-1] == value[0]:
            value = value[1:-1]
        variables[name] = value
    return variables


def _variables_layer(variables: Mapping[str, str], source: str, below: list[_Layer]) -> _Layer:
    """Return what SPRINT_* and the contract's variables say; the former win."""
    layer: _Layer = {}
    for name, path in _CONTRACT_VARIABLES.items():
        if variables.get(name, "").strip():
            layer[path] = (variables[name], f"{source}, {name}")
    for name, value in variables.items():
        if not name.startswith("SPRINT_") or _FOREIGN_VARIABLES.match(name):
            continue
        if name == _CONFIG_VARIABLE:
            continue
        key = _VARIABLES.get(name)
        if key is None:
            raise unknown(name, _VARIABLES, source)
        layer[key.path] = (value, f"{source}, {name}")
    _add_node_variables(layer, variables, source, below)
    return layer


def _add_node_variables(
    layer: _Layer, variables: Mapping[str, str], source: str, below: list[_Layer]
) -> None:
    """BITCOIN_NODE and ZMQ_NODE add a node to the lists as they stand in the layers below."""
    for name, path in (("BITCOIN_NODE", _PEERS), ("ZMQ_NODE", _NODES)):
        value = variables.get(name, "").strip()
        if not value:
            continue
        address = value.removeprefix("tcp://")
        where = f"{source}, {name}"
        try:
            check_host_port(address)
        except ValueError as error:
            raise ConfigError(f"{name} = {shown(value)} ({source}): {error}") from None
        standing = next(found[path] for found in (layer, *reversed(below)) if path in found)
        nodes = list(KEYS[path].convert(*standing))
        if path == _PEERS:
            layer[path] = ([*nodes, address] if address not in nodes else nodes, where)
        else:
            tables = [msgspec.structs.asdict(node) for node in nodes]
            if not any(f"tcp://{address}" in table["addresses"] for table in tables):
                tables.append({"addresses": [f"tcp://{address}"]})
            layer[path] = (tables, where)


def _complete(values: dict[str, Any], sources: dict[str, str], environ: Mapping[str, str]) -> None:
    """Work out what other values decide: tier aliases, the tier's own keys, folders, mode."""
    if values["network"] not in NETWORKS:
        raise ConfigError(
            f"network = {values['network']!r} ({sources['network']}): must be one of "
            + ", ".join(NETWORKS)
        )
    if values["tier"]:
        try:
            values["tier"] = tier_named(values["tier"]).name
        except ConfigError:
            raise ConfigError(
                f"tier = {shown(values['tier'])} ({sources['tier']}): must be one of "
                + ", ".join([*TIERS, *ALIASES])
            ) from None
    for path, key in (("write_deadline", "write_deadline"), ("block_buffer_size", "buffer_frames")):
        if not values[path]:
            continue
        if not values["tier"]:
            given = shown(KEYS[path].render(values[path]))
            raise ConfigError(
                f"{path} = {given} ({sources[path]}): belongs to the tier that `tier` names, and"
                f" none is named; say tier, or relay.tiers.<name>.{key}"
            )
        target = f"relay.tiers.{values['tier']}.{key}"
        values[target] = KEYS[target].convert(KEYS[target].render(values[path]), sources[path])
        sources[target] = sources[path]
    if values["sim.enabled"]:
        # The simulated node is a peer like any other, and the only one: no seed knows regtest.
        simulated = f"127.0.0.1:{values['sim.port']}"
        values["ingest.p2p"] = tuple(dict.fromkeys((*values["ingest.p2p"], simulated)))
        values["ingest.dns_seeds"] = False
    if not values["use_shared_memory"]:
        values["ring.mode"] = 0o600
    if not values["data_dir"]:
        values["data_dir"] = _data_dir(values["instance"], environ)
    for path in ("data_dir", "relay.unix_directory", "ring.directory"):
        if values[path]:
            values[path] = _absolute(path, values[path], sources[path])


def _absolute(path: str, folder: str, source: str) -> str:
    try:
        return str(Path(folder).expanduser().absolute())
    except (RuntimeError, OSError) as error:  # no such user, or no working directory
        raise ConfigError(f"{path} = {shown(folder)} ({source}): {error}") from None


def _data_dir(instance: str, environ: Mapping[str, str]) -> str:
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    home = environ.get("XDG_DATA_HOME") or f"{environ.get('HOME') or '~'}/.local/share"
    folder = Path(state) if state else Path(home) / "bitcoin-sprint"
    return str(folder if instance == "main" else folder / instance)


def _assemble(values: Mapping[str, Any]) -> Config:
    tree: dict[str, Any] = {}
    for path, key in KEYS.items():
        if path not in values:
            raise ConfigError(f"{path}: default.toml lacks it; the installation is broken")
        *folders, _ = path.split(".")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[key.field] = values[path]
    tree["relay"]["tiers"] = {
        name: msgspec.structs.replace(policy, **tree["relay"]["tiers"][name])
        for name, policy in TIERS.items()
    }
    return msgspec.convert(tree, Config, from_attributes=True)


def environment() -> tuple[Mapping[str, str], Path]:
    """Return what a command reads: its environment and the ``.env`` of its working directory."""
    dotenv = Path(".env")
    with contextlib.suppress(OSError):  # a working directory that was removed has none
        dotenv = dotenv.absolute()
    return os.environ, dotenv
