"""What the demo reports, read from the counters of its subscribers and of the relays."""

from __future__ import annotations

from typing import Any

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.metrics import Snapshot


class TierFigures(msgspec.Struct, frozen=True):
    """One tier's subscriber. ``missed``: frames its tier skipped as too late; ``overwritten``:
    passed over for newer ones. ``gaps``: frames it lacks that its tier accounts for in neither."""

    frames: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0
    missed: int = 0
    overwritten: int = 0
    gaps: int = 0


class Figures(msgspec.Struct, frozen=True):
    """What all subscribers together saw. Counts of kinds are those of the one that saw most."""

    blocks: int
    headers: int
    txs: int
    gaps: int
    tiers: dict[str, TierFigures]

    @classmethod
    def none(cls, config: Config) -> Figures:
        """Return the figures of an engine that never came to serve."""
        tiers = {tier.name: TierFigures() for tier in config.running_tiers}
        return cls(blocks=0, headers=0, txs=0, gaps=0, tiers=tiers)

    def plain(self) -> dict[str, Any]:
        """Return the figures as the demo's JSON has them."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        for tier in built["tiers"].values():
            del tier["gaps"]
        return built

    def sentence(self, seconds: float) -> str:
        """Return the summary for the end."""
        served = sum(1 for tier in self.tiers.values() if tier.frames)
        return (
            f"{seconds:.1f} s: {self.blocks} blocks, {self.headers} headers and {self.txs:,} "
            f"transactions reached {served} of {len(self.tiers)} tiers with {self.gaps} gaps."
        )


def read_figures(config: Config) -> Figures:
    """Return what the subscribers of the running demo have seen so far."""
    return figures_of(config, read_snapshot(config.instance, "demo"))


def figures_of(config: Config, seen: Snapshot | None) -> Figures:
    """Return what the subscribers had seen by ``seen``, beside what the relays count by now."""
    if seen is None:
        return Figures.none(config)
    counters = seen["counters"]
    names = [tier.name for tier in config.running_tiers]
    tiers = {name: _tier(config.instance, name, seen) for name in names}

    def most(figure: str) -> int:
        return max(counters[f"{name}.{figure}"] for name in names)

    return Figures(
        blocks=most("blocks"),
        headers=most("headers"),
        txs=most("txs"),
        gaps=sum(tier.gaps for tier in tiers.values()),
        tiers=tiers,
    )


def _tier(instance: str, name: str, seen: Snapshot) -> TierFigures:
    latency = seen["histograms"][f"{name}.latency_ns"]
    relay = read_snapshot(instance, f"relay-{name}")
    relayed = relay["counters"] if relay else {}
    missed, overwritten = relayed.get("frames_missed", 0), relayed.get("frames_overwritten", 0)
    return TierFigures(
        frames=seen["counters"][f"{name}.frames"],
        p50_us=round(latency.percentile(50) / 1000, 1),
        p99_us=round(latency.percentile(99) / 1000, 1),
        max_us=round(latency.max / 1000, 1),
        missed=missed,
        overwritten=overwritten,
        gaps=max(0, seen["counters"][f"{name}.lost"] - missed - overwritten),
    )
