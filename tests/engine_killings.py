"""An engine whose processes are killed at random, under load, while others read what it serves.

``python tests/engine_killings.py --killings 100`` is the full run and prints what it measured; a
short one is a test. A simulated node mines in a process apart, which no killing touches. Around
the engine stand observers in processes of their own, attached throughout: readers of both rings,
and a subscriber of every tier. Each proves every payload again by itself (``tests/oracle``: not
the engine's own code) and holds the numbers to what is promised.

After every killing a block that was published later must reach all observers in time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import psutil
from engines import Engine, stream_address
from oracle.block import Reader, Refused, Rules, judge, read_transaction, sha256d

from bitcoin_sprint.client import AsyncSubscriber
from bitcoin_sprint.config import load
from bitcoin_sprint.errors import Closed
from bitcoin_sprint.frames import BLOCK_FOOTER, Kind, Tip, TipAction
from bitcoin_sprint.ingest.simulator.process import main as simulate
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ring import Frame, Ring
from bitcoin_sprint.tiers import TIERS

RECOVERY_S_MAX = 60.0
LOOK_S = 0.005
PAUSE_S_MAX = 0.8
AGAIN_S_MAX = 0.7
"""Within so long of a killing the next one meets what it set going."""
LOAD = {
    "sim.interval": "150ms",
    "sim.transactions_min": 10,
    "sim.transactions_max": 40,
    "sim.reorg_every": 20,
}
CHILDREN = ["ingest", *(f"relay-{tier}" for tier in TIERS)]
READERS = 2
"""The first observers; a subscriber a tier after them."""
_CONTEXT = multiprocessing.get_context("spawn")


# ---- what an observer holds frames to -----------------------------------------------------------


@dataclass
class Seen:
    """What one observer saw. ``wrong``: the first thing that must not be, empty if none was."""

    name: str
    received: int = 0
    lost: int = 0
    overwritten: int = 0
    again: int = 0
    """Transactions that another writer published a second time."""
    first: int = 0
    last: int = 0
    sessions: set[int] = field(default_factory=set)
    epochs: set[int] = field(default_factory=set)
    wrong: str = ""


class Proof:
    """Proves frames one by one, and that none comes twice."""

    def __init__(self) -> None:
        self._headers: set[bytes] = set()
        self._blocks: set[bytes] = set()

    def fault(self, kind: int, hash: bytes, payload: bytes) -> str:
        """What is wrong with a frame, "" when nothing is."""
        if kind == Kind.HEADER:
            return self._header_fault(hash, payload)
        if kind == Kind.BLOCK:
            return self._block_fault(hash, payload)
        if kind == Kind.TX:
            reader = Reader(payload)
            txid = read_transaction(reader).txid
            return "" if txid == hash and not reader.left else "not the transaction of its txid"
        if kind == Kind.TIP:
            return "" if Tip.unpack(payload).work else "a tip without work"
        return f"kind {kind} is none that this engine makes"

    def _header_fault(self, hash: bytes, payload: bytes) -> str:
        if len(payload) != 80 or sha256d(payload) != hash:
            return "not the header of its hash"
        if hash in self._headers:
            return "a header that came before"
        self._headers.add(hash)
        return ""

    def _block_fault(self, hash: bytes, payload: bytes) -> str:
        length, count, _, _ = BLOCK_FOOTER.unpack(payload[-BLOCK_FOOTER.size :])
        raw = payload[:length]
        if sha256d(raw[:80]) != hash:
            return "not the block of its hash"
        if hash in self._blocks:
            return "a block that came before"
        self._blocks.add(hash)
        txids = judge(raw, Rules()).txids
        trailer = payload[-BLOCK_FOOTER.size - 32 * count : -BLOCK_FOOTER.size]
        return "" if b"".join(txids) == trailer else "a trailer of another block"


def _proved(proof: Proof, kind: int, hash: bytes, payload: bytes) -> str:
    try:
        return proof.fault(kind, hash, payload)
    except (Refused, ValueError, IndexError) as error:
        return f"cannot be read: {error!r}"


class RingObserver:
    """Follows one ring from its oldest frame to its end."""

    def __init__(self, instance: str, name: str, newest: Callable[[int], None]) -> None:
        self.seen = Seen(f"ring {name}")
        self._ring = Ring.attach(instance, name)
        self.reader = self._ring.reader("oldest", wait="block")
        self._proof = Proof()
        self._newest = newest
        self._transactions: dict[bytes, int] = {}
        self._stamp = 0
        self._tip: bytes | None = None
        self.seen.first = self.reader.sequence

    def take(self, frame: Frame) -> None:
        """Check a frame; ``seen.wrong`` says what is wrong with it."""
        seen, payload = self.seen, bytes(frame.payload)
        same = crc32c(payload) == frame.crc32c
        if not frame.valid():
            seen.overwritten += 1
            return
        seen.received += 1
        seen.epochs.add(self._ring.epoch)
        seen.sessions.add(self._ring.session)
        fault = "" if same else "its checksum is wrong"
        fault = fault or _proved(self._proof, frame.kind, frame.hash, payload)
        if frame.sequence <= seen.last or frame.stamp_ns <= self._stamp:
            fault = f"after frame {seen.last}"
        if frame.kind == Kind.TX:
            fault = fault or self._repeated(frame)
        if frame.kind == Kind.TIP:
            fault = fault or self._move_tip(frame.hash, Tip.unpack(payload))
        if frame.kind == Kind.BLOCK:
            self._newest(frame.publish_ns)
        seen.last, self._stamp = frame.sequence, frame.stamp_ns
        seen.wrong = f"{Kind(frame.kind).name} {frame.sequence}: {fault}" if fault else ""

    def _move_tip(self, hash: bytes, tip: Tip) -> str:
        """The tip goes from block to block, also from one writer to the next."""
        before, connected = self._tip, tip.action is TipAction.CONNECTED
        self._tip = hash if connected else tip.previous_hash
        if before is None or before == (tip.previous_hash if connected else hash):
            return ""
        return f"{tip.action.name.lower()} where the tip was {before[::-1].hex()}"

    def _repeated(self, frame: Frame) -> str:
        """A peer's transactions are told anew by every writer: one may come once an epoch."""
        # A frame read late may be older than the epoch that stands by now.
        taken_over_ns = int(self._ring.handle().header.takeover_ns)
        epoch = self._ring.epoch if frame.publish_ns > taken_over_ns else -1
        before = self._transactions.get(frame.hash)
        self._transactions[frame.hash] = epoch
        self.seen.again += before is not None
        return "a transaction that came before" if before == epoch != -1 else ""

    def finish(self) -> Seen:
        self.seen.lost = self.reader.frames_lost
        if not self.seen.wrong and not self._ring.ended:
            self.seen.wrong = "the ring did not end"
        return self.seen


class StreamObserver:
    """A subscriber of one tier, over every connection that it makes."""

    def __init__(self, tier: str, newest: Callable[[int], None]) -> None:
        self.seen = Seen(f"tier {tier}")
        self._tier = tier
        self._proof = Proof()
        self._newest = newest
        self._last: dict[int, int] = {}
        self._numbers: dict[str, set[int]] = {"blocks": set(), "tx": set()}
        self._missing = {"blocks": 0, "tx": 0}

    async def follow(self, address: str) -> None:
        async with AsyncSubscriber(
            address, tier=self._tier, on_gap=self._gap, on_session=self._session
        ) as subscriber:
            async for frame in subscriber:
                self._take(frame)
                if self.seen.wrong:
                    return

    def _gap(self, ring: str, first: int, last: int) -> None:
        self._missing[ring] += last - first + 1
        self.seen.lost += last - first + 1

    def _session(self, ring: str, old: int, new: int) -> None:
        self.seen.wrong = f"{ring}: session {new:x} after {old:x}"

    def _take(self, frame: Any) -> None:
        seen, numbers = self.seen, self._numbers[frame.ring]
        fault = _proved(self._proof, frame.kind, frame.hash, bytes(frame.payload))
        # What is sent in pieces is passed by what is small; small ones keep their order.
        if frame.sequence in numbers or frame.previous >= frame.sequence:
            fault = f"came before, or after {frame.previous}"
        if frame.kind in (Kind.HEADER, Kind.TIP) and frame.sequence < self._last.get(frame.kind, 0):
            fault = f"after {Kind(frame.kind).name} {self._last[frame.kind]}"
        seen.received += 1
        seen.sessions.add(frame.session)
        numbers.add(frame.sequence)
        self._last[frame.kind] = frame.sequence
        if frame.kind == Kind.BLOCK:
            self._newest(frame.publish_ns)
        seen.wrong = f"{Kind(frame.kind).name} {frame.sequence}: {fault}" if fault else ""

    def finish(self) -> Seen:
        """Nothing is filtered: each number was received, or told as missing."""
        for ring, numbers in self._numbers.items():
            span = max(numbers) - min(numbers) + 1 if numbers else 0
            if not self.seen.wrong and not 0 <= len(numbers) + self._missing[ring] - span <= 64:
                counted = f"{len(numbers)} received and {self._missing[ring]} missing"
                self.seen.wrong = f"{ring}: {counted} of {span}"
        self.seen.first, self.seen.last = min(numbers, default=0), max(numbers, default=0)
        return self.seen


# ---- processes around the engine ----------------------------------------------------------------


def _mine(port: int, folder: str, pipe: Connection) -> None:
    keys = {"network": "regtest", "data_dir": folder, "sim.enabled": True, "sim.port": port}
    simulate(load(None, {**keys, **LOAD}, {}, None), lambda: pipe.send("ready"))


def _read_ring(instance: str, name: str, newest: Any, index: int, pipe: Connection) -> None:
    observer = RingObserver(instance, name, lambda ns: newest.__setitem__(index, ns))
    pipe.send("ready")
    with contextlib.suppress(Closed):
        while not observer.seen.wrong:
            frame = observer.reader.wait(5)
            if frame is not None:
                observer.take(frame)
    pipe.send([observer.finish()])


def _read_by_asyncio(instance: str, newest: Any, index: int, pipe: Connection) -> None:
    """Both rings in one loop, woken by eventfds."""
    observers = [
        RingObserver(instance, "blocks", lambda ns: newest.__setitem__(index, ns)),
        RingObserver(instance, "tx", lambda _: None),
    ]

    async def follow(observer: RingObserver) -> None:
        async for frame in observer.reader:
            observer.take(frame)
            if observer.seen.wrong:
                return

    async def run() -> None:
        await asyncio.gather(*(follow(each) for each in observers))

    pipe.send("ready")
    asyncio.run(run())
    pipe.send([each.finish() for each in observers])


def _subscribe(addresses: dict[str, str], newest: Any, first: int, pipe: Connection) -> None:
    def newest_of(index: int) -> Callable[[int], None]:
        return lambda ns: newest.__setitem__(index, ns)

    observers = [StreamObserver(tier, newest_of(first + n)) for n, tier in enumerate(addresses)]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        following = asyncio.gather(*(each.follow(addresses[each._tier]) for each in observers))
        loop.add_reader(pipe.fileno(), following.cancel)
        pipe.send("ready")
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(run())
    pipe.send([each.finish() for each in observers])


class Around:
    """The node and the observers of one engine."""

    def __init__(self) -> None:
        self._processes: list[tuple[Connection, BaseProcess]] = []
        self.newest = _CONTEXT.Array("q", READERS + len(TIERS), lock=False)
        """Publish time of the newest block at each observer, CLOCK_REALTIME ns."""

    def start(self, target: Callable[..., None], *arguments: object) -> None:
        """Start a process; ``ready`` waits until it works."""
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=target, args=(*arguments, theirs))
        process.start()
        theirs.close()
        self._processes.append((ours, process))

    def ready(self, count: int) -> None:
        """Wait until the ``count`` processes started last work."""
        for pipe, _ in self._processes[-count:]:
            assert pipe.recv() == "ready"

    def observe(self, engine: Engine) -> None:
        instance, newest = engine.instance, self.newest
        self.start(_read_ring, instance, "blocks", newest, 0)
        self.start(_read_ring, instance, "tx", newest, 1)
        self.start(_read_by_asyncio, instance, newest, 1)
        addresses = {tier: stream_address(engine, tier) for tier in TIERS}
        self.start(_subscribe, addresses, newest, READERS)
        self.ready(4)

    def complaints(self) -> list[str]:
        """What observers found wrong so far: one that did says so at once."""
        early = [each for pipe, _ in self._processes[1:] if pipe.poll() for each in pipe.recv()]
        return [f"{each.name}: {each.wrong or 'gave up'}" for each in early]

    def finish(self) -> list[Seen]:
        """What the observers saw, once the engine has stopped."""
        observers = self._processes[1:]
        observers[-1][0].send("stop")
        seen = [each for pipe, _ in observers for each in _answer(pipe)]
        self.stop()
        return seen

    def stop(self) -> None:
        """End what still runs."""
        for pipe, process in self._processes:
            process.terminate()
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._processes.clear()


def _answer(pipe: Connection) -> list[Seen]:
    assert pipe.poll(20), "an observer says nothing"
    found: list[Seen] = pipe.recv()
    return found


# ---- killing ------------------------------------------------------------------------------------


class Recovery(NamedTuple):
    """From the last killing of a round, in seconds: to a block published later at every reader of
    the rings and at every subscriber, and to an engine whose processes are all ready."""

    readers: float
    subscribers: float
    whole: float


@dataclass
class Outcome:
    """What became of a run. ``recoveries``: by what was killed."""

    recoveries: dict[str, list[Recovery]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    killings: dict[str, int] = field(default_factory=dict)
    """How often each role was killed."""
    leftovers: list[str] = field(default_factory=list)
    exit_code: int = -1


class Killer:
    """Kills parts of a running engine, and waits until it is whole again."""

    def __init__(self, engine: Engine, around: Around, seed: int) -> None:
        self._engine = engine
        self._around = around
        self._dice = random.Random(seed)
        self.outcome = Outcome()
        self._deck = self._victims()
        self._note_killing()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self.watch, daemon=True)
        self._watcher.start()

    def round(self) -> None:
        """One killing, perhaps of what it set going as well, and the recovery."""
        self._pause(PAUSE_S_MAX)  # the moment of death, no synchronisation
        victim = next(self._deck)
        getattr(self, f"_kill_{victim}")()
        self.await_blocks(victim)
        self._engine.ready()
        whole_s = time.monotonic() - self._killed
        reader_s = max(self._back_s[:READERS])
        row = Recovery(reader_s, max(self._back_s[READERS:]), whole_s)
        self.outcome.recoveries.setdefault(victim, []).append(row)

    def await_blocks(self, victim: str) -> None:
        """Wait until every observer has a block published after the last killing."""
        while None in self._back_s:
            behind = [index for index, back in enumerate(self._back_s) if back is None]
            complaints = self._around.complaints()
            assert not complaints, f"{victim}: {complaints}\n{self._engine.log()}"
            late = time.monotonic() - self._killed > RECOVERY_S_MAX
            assert not late, f"{victim}: observers {behind} have no new block\n{self._engine.log()}"
            time.sleep(LOOK_S)

    def close(self) -> None:
        self._stopped.set()
        self._watcher.join()

    def watch(self) -> None:
        """Note when each observer has a block published after the last killing, until stopped."""
        while not self._stopped.wait(LOOK_S):
            back_s, killed, killed_ns = self._back_s, self._killed, self._killed_ns
            for index, newest_ns in enumerate(self._around.newest):
                if back_s[index] is None and newest_ns > killed_ns:
                    back_s[index] = time.monotonic() - killed

    # Ways to kill. Each leaves an engine that is whole again, or is about to be by itself.

    def _victims(self) -> Iterator[str]:
        """Every way to kill, in an order drawn anew each time through."""
        names = [name.removeprefix("_kill_") for name in dir(self) if name.startswith("_kill_")]
        while True:
            yield from self._dice.sample(sorted(names), len(names))

    def _kill_ingest(self) -> None:
        self._end("ingest")

    def _kill_relay(self) -> None:
        self._end(self._any_child())

    def _kill_two_at_once(self) -> None:
        self._end(*self._dice.sample(CHILDREN, 2))

    def _kill_while_it_starts_again(self) -> None:
        role = self._any_child()
        self._end(role)
        self._pause(AGAIN_S_MAX)
        self._end(role, self._any_child())

    def _kill_nursery_and_one(self) -> None:
        sprintd = psutil.Process(self._pids()["sprintd"])
        nurseries = [each for each in sprintd.children() if "nursery" in " ".join(each.cmdline())]
        self._end_pids("nursery", *(each.pid for each in nurseries))
        self._end(self._any_child())

    def _kill_sprintd(self) -> None:
        """Its processes serve on; the successor adopts each of them."""
        before = self._end("sprintd")
        if self._dice.random() < 0.5:
            self.await_blocks("nobody but sprintd")
        self._pause(AGAIN_S_MAX)
        self._engine.start().ready()
        self._check_adopted(before, [])

    def _kill_sprintd_and_one(self) -> None:
        role = self._any_child()
        before = self._end("sprintd", role)
        self._pause(AGAIN_S_MAX)
        self._engine.start().ready()
        self._check_adopted(before, [role])

    def _kill_sprintd_while_it_starts_one(self) -> None:
        role = self._any_child()
        before = self._end(role)
        self._pause(AGAIN_S_MAX)
        self._end("sprintd")
        self._engine.start().ready()
        self._check_adopted(before, [role])

    def _kill_sprintd_and_all(self) -> None:
        before = self._end("sprintd", *CHILDREN)
        self._engine.start().ready()
        self._check_adopted(before, CHILDREN)

    def _kill_sprintd_while_it_adopts(self) -> None:
        before = self._end("sprintd")
        self._engine.start()
        self._pause(AGAIN_S_MAX)
        role = self._any_child()
        self._end_pids(role, before[role])
        self._end_pids("sprintd", self._engine.process.pid)
        self._engine.process.wait()
        self._engine.start().ready()
        self._check_adopted(before, [role])

    # What they are made of.

    def _any_child(self) -> str:
        return self._dice.choice(CHILDREN)

    def _pause(self, seconds_max: float) -> None:
        time.sleep(self._dice.random() * seconds_max)

    def _end(self, *roles: str) -> dict[str, int]:
        """Kill processes by role; returns which process each role was."""
        pids = self._pids()
        for role in roles:
            self._end_pids(role, pids[role])
        if "sprintd" in roles:
            self._engine.process.wait()
        return pids

    def _end_pids(self, role: str, *pids: int) -> None:
        self.outcome.killings[role] = self.outcome.killings.get(role, 0) + 1
        for pid in pids:
            if pid:  # 0: it waits for its next start
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._note_killing()

    def _note_killing(self) -> None:
        self._killed, self._killed_ns = time.monotonic(), time.time_ns()
        self._back_s: list[float | None] = [None] * len(self._around.newest)

    def _check_adopted(self, before: dict[str, int], killed: list[str]) -> None:
        """Who was not killed is the same process as before."""
        now = self._pids()
        for role in CHILDREN:
            same = now[role] == before[role]
            assert same != (role in killed), (
                f"{role}: pid {before[role]} became {now[role]}, killed: {killed}\n"
                f"{self._engine.log()}"
            )

    def _pids(self) -> dict[str, int]:
        """Process ids by role as sprintd has them now; 0: it waits for its next start."""
        view = CountersView.attach(self._engine.instance, "sprintd")
        try:
            snapshot = view.snapshot()
        finally:
            view.close()
        found = {
            name.split(".")[1]: pid
            for name, pid in snapshot["counters"].items()
            if name.startswith("process.") and name.endswith(".pid")
        }
        self._engine.pids |= {pid for pid in found.values() if pid}
        return {**found, "sprintd": snapshot["pid"]}


def run(instance: str, killings: int, seed: int = 1) -> Outcome:
    """Kill ``killings`` times one or more processes of an engine, stop it; what was seen."""
    engine = Engine(instance, sim__enabled=False, control__restart_delay_max="500ms")
    port = engine.keys["sim.port"]
    engine.keys["ingest.p2p"] = f"127.0.0.1:{port}"
    engine.keys["ingest.dns_seeds"] = False
    around = Around()
    with contextlib.ExitStack() as stack:
        stack.enter_context(engine)
        stack.callback(around.stop)
        around.start(_mine, port, str(engine.folder / "node"))
        around.ready(1)
        engine.start().ready()
        around.observe(engine)
        killer = Killer(engine, around, seed)
        killer.await_blocks("nobody")
        for _ in range(killings):
            killer.round()
        killer.close()
        outcome = killer.outcome
        outcome.exit_code = engine.stop()
        outcome.seen = around.finish()
        outcome.leftovers = engine.leftovers()
    return outcome


def figures(outcome: Outcome) -> dict[str, dict[str, list[float]]]:
    """What a run measured, for people: p50, p99 and max in seconds, by victim."""
    table = {}
    for victim, rows in sorted(outcome.recoveries.items()):
        columns = zip(Recovery._fields, zip(*rows, strict=True), strict=True)
        table[f"{victim} ({len(rows)})"] = {name: _percentiles(times) for name, times in columns}
    return table


def _percentiles(times: Sequence[float]) -> list[float]:
    ranked = sorted(times)
    ranks = (min(len(ranked) - 1, int(share * len(ranked))) for share in (0.5, 0.99, 1))
    return [round(ranked[rank], 2) for rank in ranks]


def report(outcome: Outcome) -> str:
    """The figures of a run and what the observers saw, a line each."""
    lines = [f"{victim}: {json.dumps(row)}" for victim, row in figures(outcome).items()]
    for seen in outcome.seen:
        row = {**vars(seen), "sessions": len(seen.sessions), "epochs": len(seen.epochs)}
        lines.append(json.dumps(row))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--killings", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    outcome = run(f"killings-{os.getpid()}", options.killings, options.seed)
    print(report(outcome))
    print(f"killed: {json.dumps(outcome.killings)}, in {time.monotonic() - started:.0f} s")
    whole = outcome.exit_code == 0 and not outcome.leftovers
    sys.exit(0 if whole and not any(seen.wrong for seen in outcome.seen) else 1)


if __name__ == "__main__":
    main()
