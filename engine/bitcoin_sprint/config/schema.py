"""The configuration as the engine sees it: frozen typed structs, checked once by ``load``.

A field that ends in ``_ns`` is a duration and one that ends in ``_bytes`` a size: its key in
files and variables lacks that ending and its value is text with a unit; one that ends in
``_speed`` is a factor of recorded time, 0 without end (``"60x"``, ``"full"``). Bounds stand in
``Meta``.
Meaning and default of each key: ``default.toml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bitcoin_sprint.tiers import TIERS, TierPolicy

Port = Annotated[int, Meta(ge=1, le=65_535)]

_MS: Final = 1_000_000
_S: Final = 1_000_000_000
_HOUR: Final = 3_600 * _S
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


INSTANCE_PATTERN: Final = "^[a-z0-9][a-z0-9_-]{0,31}$"


class RingConfig(msgspec.Struct, frozen=True):
    """The two rings in shared memory; ``mode`` holds permission bits."""

    blocks_slots: Annotated[int, Meta(ge=64, le=1 << 20)]
    blocks_arena_bytes: Annotated[int, Meta(ge=8 * _MIB, le=64 * _GIB)]
    tx_slots: Annotated[int, Meta(ge=64, le=1 << 24)]
    tx_arena_bytes: Annotated[int, Meta(ge=_MIB, le=64 * _GIB)]
    directory: str
    mode: Annotated[int, Meta(ge=0o400, le=0o666)]
    group: str


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Bitcoin Core node read by ZeroMQ: ``[[ingest.zmq]]``."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    name: str = ""
    trusted: bool = True
    rpc_url: str = ""
    rpc_cookie: str = ""
    rpc_user: str = ""
    rpc_password: str = ""


class IngestConfig(msgspec.Struct, frozen=True):
    """Where blocks and transactions come from."""

    p2p: tuple[str, ...]
    dns_seeds: bool
    outbound_count: Annotated[int, Meta(ge=0, le=64)]
    zmq: tuple[NodeConfig, ...]
    peer_transactions_per_s: Annotated[int, Meta(ge=1, le=1_000_000)]
    transactions_remembered: Annotated[int, Meta(ge=1_000, le=100_000_000)]
    replay: tuple[str, ...]
    replay_speed: Annotated[float, Meta(ge=0, le=1_000_000)]
    replay_delay_ns: Annotated[int, Meta(ge=0, le=_HOUR)]


class SimConfig(msgspec.Struct, frozen=True):
    """The embedded regtest node that mines by itself."""

    enabled: bool
    port: Port
    interval_ns: Annotated[int, Meta(ge=0, le=_HOUR)]
    transactions_min: Annotated[int, Meta(ge=0, le=100_000)]
    transactions_max: Annotated[int, Meta(ge=0, le=100_000)]
    reorg_every: Annotated[int, Meta(ge=0, le=1_000_000)]
    reorg_depth_max: Annotated[int, Meta(ge=1, le=100)]
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class TierKeys(msgspec.Struct, frozen=True):
    """What of a tier's policy can be configured, and within which bounds."""

    relay_target_ns: Annotated[int, Meta(ge=100_000, le=60 * _S)]
    write_deadline_ns: Annotated[int, Meta(ge=10_000, le=60 * _S)]
    buffer_frames: Annotated[int, Meta(ge=16, le=1 << 20)]
    nice: Annotated[int, Meta(ge=-20, le=19)]
    stream_port: Port
    zmq_port: Port


class RelayConfig(msgspec.Struct, frozen=True):
    """How frames leave the host. ``tiers`` has all five by name, overrides applied."""

    bind_host: str
    level: Literal["auto", "merkle", "connected"]
    zmq_high_water_mark: Annotated[int, Meta(ge=1, le=1_000_000)]
    zmq_curve_key_file: str
    unix_directory: str
    tiers: dict[str, TierPolicy]


class ControlConfig(msgspec.Struct, frozen=True):
    """How the supervisor treats its processes."""

    wait: Literal["auto", "spin", "block"]
    ready_timeout_ns: Annotated[int, Meta(ge=100 * _MS, le=_HOUR)]
    stop_timeout_ns: Annotated[int, Meta(ge=100 * _MS, le=600 * _S)]
    restart_delay_min_ns: Annotated[int, Meta(ge=_MS, le=_HOUR)]
    restart_delay_max_ns: Annotated[int, Meta(ge=_MS, le=_HOUR)]
    heartbeat_timeout_ns: Annotated[int, Meta(ge=2 * _S, le=_HOUR)]
    orphan_timeout_ns: Annotated[int, Meta(ge=0, le=168 * _HOUR)]


class LogConfig(msgspec.Struct, frozen=True):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "json", "logfmt"]


class Config(msgspec.Struct, frozen=True):
    """Everything a process of the engine is told. Goes to the processes as JSON."""

    instance: Annotated[str, Meta(pattern=INSTANCE_PATTERN)]
    network: str
    data_dir: str
    tier: str
    write_deadline_ns: Annotated[int, Meta(ge=0, le=60 * _S)]
    block_buffer_size: Annotated[int, Meta(ge=0, le=1 << 20)]
    use_shared_memory: bool
    use_direct_p2p: bool
    use_memory_channel: bool
    optimize_system: bool
    enable_kernel_bypass: bool
    ring: RingConfig
    ingest: IngestConfig
    sim: SimConfig
    relay: RelayConfig
    control: ControlConfig
    log: LogConfig

    @property
    def running_tiers(self) -> list[TierPolicy]:
        """The tiers that run, in the order of the table: the one named by ``tier``, or all."""
        names = [self.tier] if self.tier else list(TIERS)
        return [self.relay.tiers[name] for name in names]

    @property
    def memory_channel(self) -> bool:
        """Whether subscribers of this host are offered the rings. Private rings can't be."""
        return self.use_memory_channel and self.use_shared_memory

    @property
    def headers_path(self) -> Path:
        """Where the header chain is kept. A simulated node's has a file of its own: it ends with
        its node, and must never be taken for a real network's."""
        name = "simulated" if self.sim.enabled else self.network
        return Path(self.data_dir) / f"{name}.headers"

    def encode(self) -> bytes:
        """Return the configuration as JSON, for another process of the engine."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, encoded: bytes) -> Config:
        """Return the configuration that ``encode`` wrote."""
        return msgspec.json.decode(encoded, type=cls)
