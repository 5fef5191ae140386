"""Hashing beside OpenSSL and hashlib, and what is left of a proof after a block's last byte.

Rates: everybody has a short turn in each round, so that what else the machine does meets all alike;
a figure is the median over the rounds. Ours is what the timing at the start chose, and is judged by
the best of all, our own variants included.

Left after the last byte: blocks come in pieces of 1,448 bytes, one every 11.6 us as at 1 Gbit/s,
cut elsewhere each time, copied into place and proved while more is awaited. The clock runs from the
last piece in place to the verdict.
"""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Sequence

import numpy as np

from bench.contestants.sha256 import (
    Hashlib,
    OpenSsl,
    Ours,
    Shape,
    choice,
    known_variants,
    openssl_speed,
)
from bench.report import Effort, Report, Row, grid, progress
from bench.trickle import Block, Trickle, joined_block, recorded_blocks

_SHAPES = [
    Shape(64, 2048, together=False),
    Shape(250, 1024, together=False),
    Shape(1024, 256, together=False),
    Shape(65_536, 8, together=False),
    Shape(64, 1024, together=True),
    Shape(250, 64, together=True),
    Shape(1024, 64, together=True),
]
_ROUNDS = {Effort.FULL: 301, Effort.QUICK: 101, Effort.SMOKE: 3}
_SPEED_ROUNDS = {Effort.FULL: 5, Effort.QUICK: 2, Effort.SMOKE: 0}
_BLOCK_ROUNDS = {Effort.FULL: 200, Effort.QUICK: 40, Effort.SMOKE: 2}
# Blocks of each size, each with its own end and its own shape of the trees.
_JOINED = {Effort.FULL: 8, Effort.QUICK: 8, Effort.SMOKE: 1}
_RATE_TARGET = 0.9
_LEFT_BOUND_US = 100.0
_SIZE_TARGET = 1 / 1.2
_SPEED = "openssl speed"

Rates = dict[str, float | None]


def run(effort: Effort) -> Report:
    """Measures rates, then the time left."""
    progress(choice())
    report = Report("validate")
    speeds = _speeds(_SPEED_ROUNDS[effort])
    rates = {}
    for shape in _SHAPES:
        progress(f"hashing {shape.name}")
        rates[shape.name] = _rates(shape, _ROUNDS[effort])
        if not shape.together:
            rates[shape.name][_SPEED] = speeds.get(shape.length)
        report.rows += _rate_rows(shape.name, rates[shape.name])
    report.tables.append(_rate_table(rates))
    recorded = recorded_blocks()
    progress("joining transactions to blocks of 1 and 2 MB")
    joined = {
        megabytes: [joined_block(megabytes, recorded, seed) for seed in range(_JOINED[effort])]
        for megabytes in (1, 2)
    }
    _add_left(report, recorded, joined, _BLOCK_ROUNDS[effort])
    return report


def _rates(shape: Shape, rounds: int) -> Rates:
    """Megabytes a second by contestant; None for one that is absent."""
    data = np.random.default_rng(1).bytes(shape.bytes)
    contestants: list[Ours | OpenSsl | Hashlib] = [Ours(), OpenSsl(), Hashlib()]
    contestants[1:1] = [Ours(name) for name in known_variants()]
    taken: dict[str, list[int]] = {each.name: [] for each in contestants}
    prepared = [(each, each.prepare(shape, data)) for each in contestants]
    takes_part = [(each, work) for each, work in prepared if work is not None]
    dice = random.Random(shape.name)
    gc.disable()
    for _ in range(rounds):
        dice.shuffle(takes_part)  # nobody always follows the same one
        for contestant, work in takes_part:
            contestant.make_ready()
            begun = time.perf_counter_ns()
            work()
            taken[contestant.name].append(time.perf_counter_ns() - begun)
    gc.enable()
    Ours().make_ready()
    return {
        name: shape.bytes * 1e3 / float(np.median(times)) if times else None
        for name, times in taken.items()
    }


def _speeds(rounds: int) -> dict[int, float]:
    """What ``openssl speed`` says in megabytes a second, by length: the median of its runs."""
    lengths = [shape.length for shape in _SHAPES if not shape.together]
    found: dict[int, list[float]] = {length: [] for length in lengths}
    for turn in range(rounds):
        progress(f"openssl speed: round {turn + 1} of {rounds}")
        for length in lengths:
            rate = openssl_speed(length)
            if rate is not None:
                found[length].append(rate * 1e3)
    return {length: float(np.median(rates)) for length, rates in found.items() if rates}


def _rate_rows(shape: str, rates: Rates) -> list[Row]:
    ours = rates["ours"]
    assert ours is not None
    others = {name: rate for name, rate in rates.items() if name != "ours"}
    best = max((name for name in others if others[name]), key=lambda name: others[name] or 0)

    def row(peer: str, theirs: float | None, target: float | None = None) -> Row:
        name = f"SHA-256 of {shape}"
        return Row(name, ours, "MB/s", peer, theirs, target, higher_is_better=True)

    rows = [row(name, rate) for name, rate in others.items()]
    return [*rows, row(f"the best, {best},", others[best], _RATE_TARGET)]


def _rate_table(rates: dict[str, Rates]) -> str:
    columns = list(dict.fromkeys(name for each in rates.values() for name in each))
    lines = [(shape, [each.get(name) for name in columns]) for shape, each in rates.items()]
    return grid("SHA-256, MB/s of what is hashed (-: absent)", columns, lines)


def _left_us(blocks: Sequence[Block], rounds: int) -> list[list[float]]:
    """Microseconds left, by block, all blocks in turns."""
    trickles = [Trickle(block) for block in blocks]
    left: list[list[float]] = [[] for _ in trickles]
    gc.disable()
    for _ in range(rounds):
        for trickle, mine in zip(trickles, left, strict=True):
            mine.append(trickle.left_ns() / 1e3)
    gc.enable()
    return left


def _add_left(
    report: Report, recorded: Sequence[Block], joined: dict[int, list[Block]], rounds: int
) -> None:
    blocks = [*recorded, *itertools.chain(*joined.values())]
    progress(f"{len(blocks)} blocks, {rounds} times each")
    by_name: dict[str, list[float]] = {}
    for block, taken in zip(blocks, _left_us(blocks, rounds), strict=True):
        by_name.setdefault(block.name, []).extend(taken)
    lines: list[tuple[str, list[float | None]]] = []
    medians = {name: float(np.median(taken)) for name, taken in by_name.items()}
    for name, taken in by_name.items():
        lines.append((name, [float(np.percentile(taken, p)) for p in (50, 90, 99)]))
        row = f"left after the last byte, {name}, median"
        bound = "the bound that we set"
        report.rows.append(Row(row, medians[name], "us", bound, _LEFT_BOUND_US, 1.0))
    report.rows.append(
        Row(
            name="left after the last byte, 2 MB, median",
            ours=medians[joined[2][0].name],
            unit="us",
            peer="1 MB",
            theirs=medians[joined[1][0].name],
            target=_SIZE_TARGET,
        )
    )
    report.tables.append(grid("left after the last byte, us", ["p50", "p90", "p99"], lines))
    for variant in known_variants():
        first = [blocks_of_size[0] for blocks_of_size in joined.values()]
        report.rows += _left_rows_of(variant, first, max(2, rounds // 4))


def _left_rows_of(variant: str, blocks: Sequence[Block], rounds: int) -> list[Row]:
    """One variant forced to do all that it has a form for; nothing where it is absent."""
    ours = Ours(variant)
    if not ours.is_there():
        progress(f"{variant} is absent on this processor")
        return []
    ours.make_ready()
    left = _left_us(blocks, rounds)
    Ours().make_ready()
    return [
        Row(f"left after the last byte, {block.name}, by {variant}", float(np.median(taken)), "us")
        for block, taken in zip(blocks, left, strict=True)
    ]
