"""The roles that processes of the engine have: which run, in which order, and what each runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bitcoin_sprint.config import Config
from bitcoin_sprint.tiers import TIERS

# Which room each role runs, upstream first. A relay's role is ``relay-<tier>``.
_ROOMS: Final = {
    "sim": "bitcoin_sprint.ingest.simulator.process",
    "ingest": "bitcoin_sprint.ingest.process",
    "relay": "bitcoin_sprint.relay.process",
    "demo": "bitcoin_sprint.control.demo_subscribers",
}


def known_roles() -> list[str]:
    """Return every role that there can be, upstream first."""
    relays = [f"relay-{tier}" for tier in TIERS]
    return [role for room in _ROOMS for role in (relays if room == "relay" else [room])]


def stages(config: Config, extra_roles: Sequence[str] = ()) -> list[list[str]]:
    """Return the roles that run, in stages, upstream first; ``extra_roles`` come last."""
    relays = [f"relay-{tier.name}" for tier in config.running_tiers]
    return [
        *([["sim"]] if config.sim.enabled else []),
        ["ingest"],
        relays,
        *([list(extra_roles)] if extra_roles else []),
    ]


def room_of(role: str) -> str:
    """Return the name of the module that a role runs."""
    return _ROOMS[role.partition("-")[0]]


def rooms_of(every_stage: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of all modules that the roles run, each once."""
    return list(dict.fromkeys(room_of(role) for stage in every_stage for role in stage))
