"""Fit the rings into the shared memory there is.

Sizes go down by halves, so that a restart that finds a little more or less free memory plans the
same sizes again and can take the old segments over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bitcoin_sprint.errors import HostError
from bitcoin_sprint.ring import layout, segment

_log = logging.getLogger(__name__)

SEGMENT_BYTES_MIN = {"blocks": 18 << 20, "tx": 6 << 20}
"""Nothing is sized down below this, 24 MiB for both: two full blocks must fit beside each other."""


class RingOptions(msgspec.Struct, frozen=True):
    """Sizes of one ring. Defaults: the blocks ring's."""

    slot_count: int = 4096
    arena_bytes: int = 256 << 20

    @property
    def segment_bytes(self) -> int:
        return layout.segment_bytes(self.slot_count, self.arena_bytes)

    def rounded(self) -> RingOptions:
        """Slots rounded up to a power of two, the arena to whole pages; ValueError out of
        bounds."""
        if not 1 <= self.slot_count <= layout.SLOT_COUNT_MAX:
            raise ValueError(f"slot_count {self.slot_count}: 1 to {layout.SLOT_COUNT_MAX}")
        if not 1 <= self.arena_bytes <= layout.ARENA_BYTES_MAX:
            raise ValueError(f"arena_bytes {self.arena_bytes}: 1 to {layout.ARENA_BYTES_MAX}")
        return RingOptions(
            max(layout.SLOT_COUNT_MIN, 1 << (self.slot_count - 1).bit_length()),
            layout.round_up(self.arena_bytes, layout.PAGE_BYTES),
        )


def rungs(name: str, options: RingOptions) -> Iterator[RingOptions]:
    """``options`` rounded, then halved again and again down to the least that is of use."""
    rung = options.rounded()
    least = SEGMENT_BYTES_MIN[name]
    yield rung
    while rung.segment_bytes > least:
        half = RingOptions(
            max(layout.SLOT_COUNT_MIN, rung.slot_count // 2),
            layout.round_up(rung.arena_bytes // 2, layout.PAGE_BYTES),
        )
        if half.segment_bytes < least:
            slots = half.slot_count
            half = RingOptions(slots, least - layout.segment_bytes(slots, 0))
        rung = half
        yield rung


def plan(
    instance: str, blocks: RingOptions, tx: RingOptions, directory: Path | None = None
) -> dict[str, RingOptions]:
    """Sizes for both rings that fit the free shared memory, what the instance's own old segments
    hold counted as free. Logs a warning when they are less than asked for.

    Raises HostError when even the least does not fit; ValueError for sizes out of bounds.
    """
    where = directory or layout.SHARED_MEMORY
    free = segment.free_bytes(where) + _held_bytes(instance, directory)
    ladders = {"blocks": list(rungs("blocks", blocks)), "tx": list(rungs("tx", tx))}
    needed = 0
    for step in range(max(map(len, ladders.values()))):
        planned = {name: ladder[min(step, len(ladder) - 1)] for name, ladder in ladders.items()}
        needed = sum(options.segment_bytes for options in planned.values()) + layout.WAKE_BYTES
        if needed <= free:
            if step > 0:
                _warn(planned, ladders, free, where)
            return planned
    raise HostError(
        f"{where}: {free / 2**20:.1f} MiB of shared memory free, the rings need "
        f"{needed / 2**20:.1f} MiB at the least; make it bigger (docker run --shm-size=512m)"
    )


def _held_bytes(instance: str, directory: Path | None) -> int:
    held = 0
    for name in layout.RING_NAMES:
        try:
            held += layout.segment_path(instance, name, directory).stat().st_blocks * 512
        except OSError:
            continue
    return held


def _warn(
    planned: dict[str, RingOptions],
    ladders: dict[str, list[RingOptions]],
    free: int,
    where: Path,
) -> None:
    for name, options in planned.items():
        asked = ladders[name][0]
        _log.warning(
            "%s: %.1f MiB free, ring %s sized down from %d slots and %.1f MiB to %d and %.1f MiB",
            where,
            free / 2**20,
            name,
            asked.slot_count,
            asked.arena_bytes / 2**20,
            options.slot_count,
            options.arena_bytes / 2**20,
        )
