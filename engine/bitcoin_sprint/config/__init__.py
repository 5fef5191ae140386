"""The typed configuration; ``default.toml`` says what each key means."""

from bitcoin_sprint.config.host import check_host
from bitcoin_sprint.config.load import Loaded, environment, load, load_with_sources, render
from bitcoin_sprint.config.quantities import format_duration, format_size
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
    "Config",
    "ControlConfig",
    "IngestConfig",
    "Loaded",
    "LogConfig",
    "NodeConfig",
    "RelayConfig",
    "RingConfig",
    "SimConfig",
    "check_host",
    "environment",
    "format_duration",
    "format_size",
    "load",
    "load_with_sources",
    "render",
]
