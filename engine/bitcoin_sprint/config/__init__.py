"""The typed configuration; ``default.toml`` says what each key means."""

from bitcoin_sprint.config.host import check_host
from bitcoin_sprint.config.load import Loaded, environment, load, load_with_sources, render
from bitcoin_sprint.config.quantities import format_duration, format_size
from bitcoin_sprint.config.runtime_keys import (
    RUNTIME_KEYS,
    changed_keys,
    fixed_digest,
    with_runtime_keys,
)
from bitcoin_sprint.config.schema import (
    Config,
    ControlConfig,
    IngestConfig,
    LogConfig,
    NodeConfig,
    RelayConfig,
    RingConfig,
    SimConfig,
)

__all__ = [
    "RUNTIME_KEYS",
    "Config",
    "ControlConfig",
    "IngestConfig",
    "Loaded",
    "LogConfig",
    "NodeConfig",
    "RelayConfig",
    "RingConfig",
    "SimConfig",
    "changed_keys",
    "check_host",
    "environment",
    "fixed_digest",
    "format_duration",
    "format_size",
    "load",
    "load_with_sources",
    "render",
    "with_runtime_keys",
]
