"""Reading the configuration: layers over layers, then one check of what goes together."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from bitcoin_sprint.chains import NETWORKS
from bitcoin_sprint.config.keys import KEYS, key_named, unknown
from bitcoin_sprint.config.schema import Config
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.tiers import TIERS, tier_named

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
_FOREIGN_VARIABLES: Final = re.compile("SPRINT_(TEST_|REQUIRE_|SANITIZE|BENCH_|CONFIG$)")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_DOTENV_LINE: Final = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")

# A value as it was given and where it stood, by the key's path.
_Layer = dict[str, tuple[object, str]]


class Loaded(msgspec.Struct, frozen=True):
    """A configuration and where each of its values stood, by the key's path."""

    config: Config
    sources: dict[str, str]


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
    missing; ``config_file`` one that must exist. Raises ConfigError, which names key, value,
    where it stood, and the bound.
    """
    environ = environ or {}
    layers = [_toml_layer(DEFAULT_FILE, "default.toml")]
    if config_file is not None:
        layers.append(_toml_layer(config_file, str(config_file)))
    if dotenv is not None and dotenv.is_file():
        layers.append(_variables_layer(_read_dotenv(dotenv), str(dotenv), layers))
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
    _check_together(config, sources)
    return Loaded(config, sources)


def render(config: Config) -> dict[str, Any]:
    """Return every value by its key's path, as it is written in files; secrets hidden."""
    rendered = {}
    for path, key in KEYS.items():
        value = key.render(_value_at(config, path, key.field))
        if path == "ingest.zmq":
            value = [node | {"rpc_password": "***"} if node["rpc_password"] else node
                     for node in value]  # fmt: skip
        rendered[path] = value
    return rendered


def _value_at(config: Config, path: str, field: str) -> Any:
    value: Any = config
    for part in path.split(".")[:-1]:
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return getattr(value, field)


def _toml_layer(path: Path, source: str) -> _Layer:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
    try:
        text = path.read_text(encoding="utf-8")
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
        if name in variables:
            layer[path] = (variables[name], f"{source}, {name}")
    for name, value in variables.items():
        if not name.startswith("SPRINT_") or _FOREIGN_VARIABLES.match(name):
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
    for name, path in (("BITCOIN_NODE", "ingest.p2p"), ("ZMQ_NODE", "ingest.zmq")):
        value = variables.get(name, "").strip()
        if not value:
            continue
        address = value.removeprefix("tcp://")
        where = f"{source}, {name}"
        _check_host_port(name, address, where)
        standing = next(found[path] for found in (layer, *reversed(below)) if path in found)
        nodes = list(KEYS[path].convert(*standing))
        if path == "ingest.p2p":
            layer[path] = ([*nodes, address] if address not in nodes else nodes, where)
        else:
            tables = [msgspec.structs.asdict(node) for node in nodes]
            if not any(f"tcp://{address}" in table["addresses"] for table in tables):
                tables.append({"addresses": [f"tcp://{address}"]})
            layer[path] = (tables, where)


def _check_host_port(key: str, value: str, source: str) -> None:
    match = _HOST_PORT.fullmatch(value)
    if match is None or not 1 <= int(match[2]) <= 65_535:
        raise ConfigError(f"{key} = {value!r} ({source}): must be host:port, port 1 to 65535")


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
        except ConfigError as error:
            raise ConfigError(f"{error} ({sources['tier']})") from None
    for path, key in (("write_deadline", "write_deadline"), ("block_buffer_size", "buffer_frames")):
        if not values[path]:
            continue
        if not values["tier"]:
            raise ConfigError(
                f"{path} ({sources[path]}): belongs to the tier that `tier` names, and none is"
                f" named; say tier, or relay.tiers.<name>.{key}"
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
            values[path] = str(Path(values[path]).expanduser().absolute())


def _data_dir(instance: str, environ: Mapping[str, str]) -> str:
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    home = environ.get("XDG_DATA_HOME") or str(
        Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    )
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


def _check_together(config: Config, sources: Mapping[str, str]) -> None:
    """Refuse values that are right alone and wrong together."""

    def refuse(path: str, value: object, why: str) -> None:
        raise ConfigError(f"{path} = {value!r} ({sources.get(path, 'default.toml')}): {why}")

    if config.enable_kernel_bypass:
        refuse("enable_kernel_bypass", True, "there is no second egress backend yet")
    for path in ("ring.blocks_slots", "ring.tx_slots"):
        slots = _value_at(config, path, path.rpartition(".")[2])
        if slots & (slots - 1):
            refuse(path, slots, f"must be a power of two, such as {1 << slots.bit_length()}")
    if config.sim.enabled and config.network != "regtest":
        refuse("sim.enabled", True, f'needs network = "regtest", not "{config.network}"')
    if config.sim.transactions_min > config.sim.transactions_max:
        refuse(
            "sim.transactions_min",
            config.sim.transactions_min,
            f"must not be above sim.transactions_max = {config.sim.transactions_max}",
        )
    control = config.control
    if control.restart_delay_min_ns > control.restart_delay_max_ns:
        shown = KEYS["control.restart_delay_min"].render(control.restart_delay_min_ns)
        refuse("control.restart_delay_min", shown, "must not be above control.restart_delay_max")
    for address in config.ingest.p2p:
        _check_host_port("ingest.p2p", address, sources["ingest.p2p"])
    _check_ports(config, sources)


def _check_ports(config: Config, sources: Mapping[str, str]) -> None:
    taken: dict[int, str] = {}
    if config.sim.enabled:
        taken[config.sim.port] = "sim.port"
    for policy in config.running_tiers:
        for field in ("stream_port", "zmq_port"):
            path, port = f"relay.tiers.{policy.name}.{field}", getattr(policy, field)
            if port in taken:
                raise ConfigError(
                    f"{path} = {port} ({sources[path]}): {taken[port]} has that port already"
                )
            taken[port] = path


def environment() -> tuple[Mapping[str, str], Path]:
    """Return what a command reads: its environment and the ``.env`` of its working directory."""
    return os.environ, Path.cwd() / ".env"
