"""Writers that are killed at random while readers go on: the ring's life under SIGKILL.

Each writer process takes the ring over from the one killed before it. Payloads' numbers start at
the epoch times 2^32, so that every frame tells which writer made it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from ring_stress import Load, Tally, check, make_noise

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.ring import Ring, Writer

SLOT_COUNT = 256
ARENA_BYTES = 4 << 20


@dataclass
class Seen(Tally):
    """What a reader saw, with the payload number of each sequence."""

    numbers: dict[int, int] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)


def _write(instance: str, pipe: Connection, seed: int) -> None:
    writer = Writer.create(instance, "tx", slot_count=SLOT_COUNT, arena_bytes=ARENA_BYTES)
    pipe.send((writer.epoch, writer.session, writer.head))
    load = Load(writer, seed)
    load.number = writer.epoch << 32
    while True:
        load.step()


def _read(instance: str, resume: str, pipe: Connection) -> None:
    ring = Ring.attach(instance, "tx")
    reader = ring.reader(1, resume=resume, wait="block")  # type: ignore[arg-type]
    noise, seen, last, stamp = memoryview(make_noise()), Seen(), 0, 0
    pipe.send("ready")
    with contextlib.suppress(Closed):
        while not seen.wrong:
            frame = reader.wait(5)
            if frame is None:
                continue
            seen.received += 1
            seen.wrong = check(frame, noise, seen)
            number = int.from_bytes(frame.hash[:8], "little")
            seen.numbers[frame.sequence] = number
            seen.epochs.add(number >> 32)
            if frame.sequence <= last or frame.stamp_ns <= stamp:
                seen.wrong = f"frame {frame.sequence} after {last}"
            last, stamp = frame.sequence, frame.stamp_ns
    seen.lost = reader.frames_lost
    pipe.send(seen)


def run(instance: str, killings: int, seed: int = 1) -> tuple[int, list[Seen]]:
    """Kill ``killings`` writers; the last frame's number and what two readers saw."""
    context = multiprocessing.get_context("fork")
    dice = random.Random(seed)
    readers: list[tuple[Connection, multiprocessing.process.BaseProcess]] = []
    session = None
    for killing in range(killings):
        ours, theirs = context.Pipe()
        writer = context.Process(target=_write, args=(instance, theirs, seed + killing))
        writer.start()
        theirs.close()
        epoch, found, _ = ours.recv()
        session = session or found
        if (epoch, found) != (killing + 1, session):
            raise AssertionError(f"after {killing} killings: epoch {epoch}, another session")
        for resume in () if readers else ("oldest", "newest"):
            pipe, far = context.Pipe()
            process = context.Process(target=_read, args=(instance, resume, far))
            process.start()
            far.close()
            readers.append((pipe, process))
        for pipe, _ in readers if killing == 0 else ():
            pipe.recv()
        time.sleep(dice.random() * 0.03)  # the moment of death, not a synchronisation
        writer.kill()
        writer.join()
        ours.close()
    with Writer.create(instance, "tx", slot_count=SLOT_COUNT, arena_bytes=ARENA_BYTES) as last:
        head = last.head
    seen = [pipe.recv() for pipe, _ in readers]
    for _, process in readers:
        process.join()
    return head, seen
