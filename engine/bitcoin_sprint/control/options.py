"""Command-line options that name an instance and its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bitcoin_sprint.config import Loaded, check_host, environment, load_with_sources
from bitcoin_sprint.errors import ConfigError

EXIT_CODES = """exit codes:
  0 done   1 failed   2 usage or configuration
  3 the host refuses (permission, memory, port taken)   4 no such running instance"""


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide the configuration."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file over the defaults")
    group.add_argument("--instance", metavar="NAME", help="name of the engine on this host")
    group.add_argument("--network", metavar="NAME", help="main, testnet4, signet, regtest, ...")
    group.add_argument("--tier", metavar="NAME", help="run this tier alone")
    group.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any key of the configuration, such as ring.blocks_arena=64MiB; may be repeated",
    )


def loaded_config(arguments: argparse.Namespace, own: Mapping[str, object] | None = None) -> Loaded:
    """Load the configuration that the options, the environment and the files give.

    ``own``: keys that the command itself decides, over all of them. Raises ConfigError, also for
    what this host lacks of what the configuration names.
    """
    overrides: dict[str, object] = {}
    for assignment in arguments.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: must be KEY=VALUE")
        overrides[key.strip()] = value.strip()
    flags = {
        "instance": arguments.instance,
        "network": arguments.network,
        "tier": arguments.tier,
        "log.level": arguments.log_level,
    }
    overrides.update({key: value for key, value in flags.items() if value is not None})
    overrides.update(own or {})
    environ, dotenv = environment()
    loaded = load_with_sources(arguments.config, overrides, environ, dotenv)
    warnings = check_host(loaded.config, loaded.sources)
    return msgspec.structs.replace(loaded, warnings=warnings)
