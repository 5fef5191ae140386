"""The ring under load: one writer process, four readers, frames of every size, all checked.

``python tests/ring_stress.py --frames 10000000`` is the full run and prints what it counted; a
smaller one is a test. Every frame's fields and payload follow from its number, so a reader can
tell a torn, mixed, repeated or misplaced one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ring import Frame, Reader, Reservation, Ring, Writer

LENGTH_MAX = 1 << 20
SLOT_COUNT = 1024
ARENA_BYTES = 8 << 20
NOISE_BYTES = 2 * LENGTH_MAX
READERS = (
    {"wait": "block", "resume": "oldest"},
    {"wait": "spin_then_yield", "resume": "oldest"},
    {"wait": "block", "resume": "newest"},
    {"wait": "block", "resume": "oldest", "slow": True},
)


@dataclass
class Tally:
    """What one reader saw."""

    received: int = 0
    lost: int = 0
    overwritten: int = 0
    overruns: int = 0
    slot_laps: int = 0
    arena_laps: int = 0
    bytes: int = 0
    wrong: str = ""


def make_noise() -> bytes:
    return random.Random(20).randbytes(NOISE_BYTES)


def _start_of(number: int) -> int:
    return number * 7919 % (NOISE_BYTES - LENGTH_MAX)


def _hash_of(number: int) -> bytes:
    return number.to_bytes(8, "little") * 4


def _fields(number: int) -> dict[str, int]:
    return {
        "level": number % 4,
        "height": number % 2**31,
        "flags": number % 2**32,
        "source": number % 64,
        "origin_ns": number,
        "first_byte_ns": ~number % 2**64,
        "last_byte_ns": number * 3,
    }


class Load:
    """The writer's side. ``number`` names a payload; reservations publish theirs out of order."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self.writer = writer
        self.random = random.Random(seed)
        self.noise = memoryview(make_noise())
        self.open: list[tuple[int, int, Reservation]] = []
        self.counts = {"published": 0, "reserved": 0, "abandoned": 0, "gathered": 0}
        self.number = 0

    def step(self) -> None:
        """One action: mostly a frame, sometimes something about a reservation."""
        self.number += 1
        number, draw = self.number, self.random.random()
        length = int(math.exp(self.random.random() * math.log(LENGTH_MAX + 1)))
        start = _start_of(number)
        if draw < 0.06 and len(self.open) < 20:
            self.open.append((number, length, self.writer.reserve(length + number % 100)))
            self.counts["reserved"] += 1
        elif draw < 0.20 and self.open:
            self._go_on()
        else:
            payload = self.noise[start : start + length]
            pieces = payload
            if number % 3 == 0:
                self.counts["gathered"] += 1
                pieces = [payload[: length // 3], payload[length // 3 :]]  # type: ignore[assignment]
            self.writer.publish(16, pieces, hash=_hash_of(number), **_fields(number))
            self.counts["published"] += 1

    def _go_on(self) -> None:
        """Receive into one of the open reservations, and commit or abandon it when full."""
        index = self.random.randrange(len(self.open))
        number, length, reservation = self.open[index]
        left = length - reservation.length
        if left > 0:
            count = min(left, 1 + int(self.random.random() * length))
            start = _start_of(number) + reservation.length
            reservation.buffer[:count] = self.noise[start : start + count]
            reservation.advance(count)
            return
        del self.open[index]
        if self.random.random() < 0.2:
            reservation.abandon()
            self.counts["abandoned"] += 1
        else:
            reservation.commit(16, hash=_hash_of(number), **_fields(number))
            self.counts["published"] += 1

    def finish(self) -> None:
        for _, _, reservation in self.open:
            reservation.abandon()
            self.counts["abandoned"] += 1


def check(frame: Frame, noise: memoryview, tally: Tally) -> str:
    """What is wrong with a frame; empty when it is whole, or honestly overwritten."""
    number = int.from_bytes(frame.hash[:8], "little")
    if frame.hash != _hash_of(number):
        return f"frame {frame.sequence}: torn hash {frame.hash.hex()}"
    for name, value in _fields(number).items():
        if getattr(frame, name) != value:
            return f"frame {frame.sequence}: {name} of another frame"
    start = _start_of(number)
    expected = noise[start : start + frame.length]
    same = frame.payload == expected if frame.length < 256 else (
        crc32c(frame.payload) == frame.crc32c and frame.payload[-64:] == expected[-64:]
    )  # fmt: skip
    if not frame.valid():
        tally.overwritten += 1
        return ""
    tally.bytes += frame.length
    return "" if same else f"frame {frame.sequence}: wrong payload, said to be whole"


def _read(reader: Reader, slow: bool) -> Tally:
    noise, tally, last, stamp = memoryview(make_noise()), Tally(), 0, 0
    with contextlib.suppress(Closed):
        while not tally.wrong:
            frame = reader.wait(5)
            if frame is None:
                continue
            tally.received += 1
            tally.wrong = check(frame, noise, tally)
            if frame.sequence <= last or frame.stamp_ns <= stamp:
                tally.wrong = f"frame {frame.sequence} after {last}"
            last, stamp = frame.sequence, frame.stamp_ns
            if tally.received + reader.frames_lost != last:
                tally.wrong = f"{tally.received} + {reader.frames_lost} lost, but at frame {last}"
            if slow and tally.received % 50 == 0:
                time.sleep(0.02)
    tally.lost, tally.overruns = reader.frames_lost, reader.overruns
    tally.slot_laps, tally.arena_laps = reader.slot_laps, reader.arena_laps
    return tally


def _reader_process(instance: str, index: int, pipe: Connection) -> None:
    options = dict(READERS[index])
    slow = bool(options.pop("slow", False))
    reader = Ring.attach(instance, "tx").reader("oldest", **options)  # type: ignore[arg-type]
    pipe.send("ready")
    pipe.send(_read(reader, slow))


def run(
    instance: str, frames: int, seed: int = 1, nice: int = 0
) -> tuple[dict[str, int], list[Tally]]:
    """Publish ``frames`` frames to four reader processes; what the writer did and they saw."""
    context = multiprocessing.get_context("spawn")
    with Writer.create(instance, "tx", slot_count=SLOT_COUNT, arena_bytes=ARENA_BYTES) as writer:
        pipes, processes = [], []
        for index in range(len(READERS)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_reader_process, args=(instance, index, theirs))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()
        os.nice(nice)
        load = Load(writer, seed)
        while load.counts["published"] < frames:
            load.step()
        load.finish()
        counts = {**load.counts, "revocations": writer.revocations, "head": writer.head}
    tallies = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return counts, tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.nice(10)
    started = time.monotonic()
    counts, tallies = run(f"stress-{os.getpid()}", options.frames, options.seed)
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": round(seconds, 1), **counts}))
    for tally in tallies:
        print(json.dumps(vars(tally)))
    bad = [t for t in tallies if t.wrong or t.received + t.lost != counts["head"]]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
