"""The tier table: a tier's name decides its deadlines, its buffer, its delivery and its ports."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from bitcoin_sprint.errors import ConfigError

_MILLISECOND_NS: Final = 1_000_000
_MICROSECOND_NS: Final = 1_000


class Delivery(enum.StrEnum):
    """What a tier does about a subscriber who can't keep up."""

    BEST_EFFORT = "best_effort"
    """What comes too late is skipped for that subscriber, and counted as missed."""
    OVERWRITE = "overwrite"
    """What is newer overwrites what is older; the newest block is always still delivered."""


class TierPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What one tier promises. All durations are in nanoseconds.

    ``relay_target_ns`` runs from publish to the first byte accepted by the subscriber's socket;
    ``write_deadline_ns`` from the first attempt to the last byte accepted, for each chunk;
    ``buffer_frames`` is how many subscribed frames of one ring a subscriber may fall behind;
    ``nice`` is the scheduling weight of the tier's worker process, as for nice(2).
    """

    name: str
    relay_target_ns: int
    write_deadline_ns: int
    buffer_frames: int
    delivery: Delivery
    memory_optimised: bool
    multicast: bool
    nice: int
    stream_port: int
    zmq_port: int


def _tier(
    name: str,
    rank: int,
    relay_target_ms: int,
    write_deadline_us: int,
    buffer_frames: int,
    *,
    nice: int,
    overwrite: bool = False,
    multicast: bool = False,
) -> TierPolicy:
    return TierPolicy(
        name=name,
        relay_target_ns=relay_target_ms * _MILLISECOND_NS,
        write_deadline_ns=write_deadline_us * _MICROSECOND_NS,
        buffer_frames=buffer_frames,
        delivery=Delivery.OVERWRITE if overwrite else Delivery.BEST_EFFORT,
        memory_optimised=overwrite,
        multicast=multicast,
        nice=nice,
        stream_port=7400 + rank,
        zmq_port=7410 + rank,
    )


# Lowest tier first. Turbo and enterprise keep the default weight and business comes before free
# and pro: a weight needs no privilege as long as it is only ever lowered.
TIERS: Final[Mapping[str, TierPolicy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            _tier("free", 0, 500, 2_000_000, 512, nice=10),
            _tier("pro", 1, 100, 1_500_000, 1_280, nice=10),
            _tier("business", 2, 50, 1_000_000, 1_536, nice=5),
            _tier("turbo", 3, 10, 500, 2_048, nice=0, overwrite=True),
            _tier("enterprise", 4, 5, 200, 4_096, nice=0, overwrite=True, multicast=True),
        )
    }
)

ALIASES: Final = MappingProxyType({"developer": "pro", "professional": "business"})


def tier_named(name: str) -> TierPolicy:
    """The tier called ``name``: a canonical name or an alias, in any case.

    Raises ConfigError for any other name.
    """
    wanted = name.strip().lower()
    policy = TIERS.get(ALIASES.get(wanted, wanted))
    if policy is None:
        known = ", ".join([*TIERS, *ALIASES])
        raise ConfigError(f"tier = {name!r}: not one of {known}")
    return policy
