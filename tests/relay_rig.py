"""Real rings and a real worker on free loopback ports, for whatever sends frames to subscribers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC, Kind, Level, Tip, TipAction
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.relay.worker import Worker, WorkerOptions
from bitcoin_sprint.ring import Writer
from bitcoin_sprint.tiers import TIERS, TierPolicy

SECOND_NS = 1_000_000_000
PATIENT_NS = 3_600 * SECOND_NS


def unique_instance() -> str:
    return f"relaytest-{secrets.token_hex(6)}"


class Rings:
    """Both rings of an instance of their own, and what a test publishes in them."""

    def __init__(self, *, slot_count: int = 1_024, arena_bytes: int = 16 << 20) -> None:
        self.instance = unique_instance()
        self._sizes = {"slot_count": slot_count, "arena_bytes": arena_bytes}
        self._open()

    def _open(self) -> None:
        self.blocks = Writer.create(self.instance, "blocks", network="regtest", **self._sizes)
        self.tx = Writer.create(self.instance, "tx", network="regtest", **self._sizes)

    def publish(self, kind: Kind, payload: Any = b"", **fields: Any) -> int:
        """Publish a frame where it belongs; returns its number."""
        writer = self.tx if kind >= Kind.TX else self.blocks
        return writer.publish(kind, payload, **{"hash": bytes(32), "level": Level.POW, **fields})

    def header(self, height: int = 0) -> int:
        return self.publish(Kind.HEADER, bytes(80), hash=secrets.token_bytes(32), height=height)

    def block(self, transactions: list[bytes], block_hash: bytes, **fields: Any) -> int:
        """Publish a BLOCK whose body is a header and these transactions, with its trailer."""
        payload = block_payload(transactions)
        level = Level.MERKLE
        return self.publish(Kind.BLOCK, payload, hash=block_hash, **{"level": level, **fields})

    def tip(
        self,
        action: TipAction,
        block_hash: bytes,
        block_sequence: int,
        level: Level = Level.MERKLE,
        **fields: Any,
    ) -> int:
        payload = Tip(action, block_sequence, bytes(32), 1).pack()
        return self.publish(Kind.TIP, payload, hash=block_hash, level=level, **fields)

    def begin_anew(self) -> None:
        """Give both segments up and make fresh ones, as an engine does that restarts."""
        self.close()
        self._open()

    def close(self) -> None:
        self.blocks.close(unlink=True)
        self.tx.close(unlink=True)


def block_payload(transactions: list[bytes]) -> bytes:
    """A BLOCK payload: 80 zero bytes, a count, the transactions, the trailer. Txids are their
    numbers."""
    body = bytearray(80) + bytes([len(transactions)])
    offsets = []
    for transaction in transactions:
        offsets.append(len(body))
        body += transaction
    payload = bytearray(body)
    payload += bytes(-len(payload) % 8)
    payload += np.array(offsets, np.uint32).tobytes()
    payload += bytes(-len(payload) % 8)
    for number in range(len(transactions)):
        payload += txid_of(number)
    payload += BLOCK_FOOTER.pack(len(body), len(transactions), 1, BLOCK_TRAILER_MAGIC)
    return bytes(payload)


def txid_of(number: int) -> bytes:
    """The txid that ``block_payload`` gives its nth transaction."""
    return bytes([number]) + bytes(30) + b"\x77"


def patient(tier: str, **changes: Any) -> TierPolicy:
    """A tier's policy with free ports and, unless said otherwise, deadlines that a busy machine
    can't miss: tests are about what happens, not about how quick this host is."""
    defaults = {
        "stream_port": 0,
        "zmq_port": 0,
        "relay_target_ns": PATIENT_NS,
        "write_deadline_ns": PATIENT_NS,
    }
    return msgspec.structs.replace(TIERS[tier], **{**defaults, **changes})


class RunningWorker:
    """A worker in a thread of its own."""

    def __init__(self, worker: Worker, instance: str, tier: str) -> None:
        self.worker = worker
        self._name = f"relay-{tier}"
        self._instance = instance

    @property
    def tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.worker.stream_port}"

    @property
    def zmq(self) -> str:
        return f"zmq+tcp://127.0.0.1:{self.worker.zmq_port}"

    def counters(self) -> dict[str, int]:
        """The worker's figures as anybody sees them."""
        return dict(CountersView.attach(self._instance, self._name).snapshot()["counters"])

    def wait_for(self, **figures: int) -> dict[str, int]:
        """Wait until the worker's figures are these; fail after ten seconds."""
        eventually(lambda: all(self.counters()[n] == v for n, v in figures.items()), self.counters)
        return self.counters()


@contextmanager
def running_worker(
    rings: Rings,
    policy: TierPolicy | None = None,
    *,
    level: Level = Level.MERKLE,
    unix_path: Path | None = None,
    **options: Any,
):
    """A worker on these rings, stopped and gone afterwards."""
    policy = policy or patient("turbo")
    worker = Worker(
        policy,
        WorkerOptions(
            instance=rings.instance,
            network="regtest",
            level=level,
            unix_path=unix_path,
            **options,
        ),
    )
    try:
        assert worker.attach()
        worker.listen()
    except BaseException:
        worker.close()
        raise
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield RunningWorker(worker, rings.instance, policy.name)
    finally:
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()


def eventually(
    condition: Callable[[], bool], explain: Callable[[], object] = lambda: "", seconds: float = 10
) -> None:
    """Wait until a condition holds; the only waiting on time in these tests."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never came true: {explain()}")
        time.sleep(0.005)
