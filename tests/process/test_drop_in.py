"""An unmodified subscriber hears from the engine what the node's own ZeroMQ says, and more.

One bitcoind feeds the engine by ZeroMQ (its word is trusted), another by P2P, at once. Both live
through blocks with transactions and three reorganisations; every body of every topic is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
from core_subscriber import TOPICS, CoreSubscriber
from engines import Engine
from peers import Bitcoind, Spender
from peers.fixtures import NodeStarter

from bitcoin_sprint.frames import Kind, Level, Tip, TipAction
from bitcoin_sprint.ring import Ring

BLOCKS = 500
MATURE = 20
REORGS = {120: 1, 260: 3, 400: 6}
"""After how many blocks the two nodes part, and how deep the reorganisation is."""


class TwoNodes:
    """Two bitcoinds that share a chain: ``near`` is read by ZeroMQ, ``far`` by P2P."""

    def __init__(self, near: Bitcoind, far: Bitcoind) -> None:
        self.near = near
        self.far = far
        self.spender = Spender(near)
        self.connect()
        self.spender.mine_coins(MATURE)
        self.meet()

    def connect(self) -> None:
        self.near.rpc("addnode", self.far.p2p_address, "onetry")
        until(lambda: self.near.rpc("getconnectioncount") > 0, "the nodes meet")

    def part(self) -> None:
        self.near.rpc("disconnectnode", self.far.p2p_address)
        until(lambda: self.near.rpc("getconnectioncount") == 0, "the nodes part")

    def meet(self) -> None:
        both = (self.near, self.far)
        until(lambda: len({node.rpc("getbestblockhash") for node in both}) == 1, "one tip")

    def send(self, count: int) -> None:
        """``count`` transactions into the near node's mempool."""
        for _ in range(count):
            self.spender.send(outputs=2)

    def reorganise(self, depth: int) -> list[str]:
        """The near node mines ``depth`` blocks and is overtaken by one; returns the winners."""
        self.part()
        for _ in range(depth):
            self.send(2)
            self.near.mine(1)
        winners = self.far.mine(depth + 1)
        self.connect()
        self.meet()
        return winners


def until(condition: Callable[[], bool], what: object, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def is_subsequence(few: Iterable[bytes], many: Iterable[bytes]) -> bool:
    rest = iter(many)
    return all(any(body == other for other in rest) for body in few)


@pytest.fixture
def nodes(bitcoind: NodeStarter[Bitcoind]) -> TwoNodes:
    return TwoNodes(bitcoind.start(), bitcoind.start())


@pytest.fixture
def engine(nodes: TwoNodes) -> Iterator[Engine]:
    near = {
        "name": "near",
        "addresses": [nodes.near.zmq_address],
        "trusted": True,
        "rpc_url": nodes.near.rpc_url,
        "rpc_cookie": str(nodes.near.cookie_file),
    }
    keys: dict[str, object] = {
        "tier": "turbo",
        "sim.enabled": False,
        "relay.zmq_high_water_mark": 1_000_000,
        "ingest.dns_seeds": False,
        "ingest.p2p": nodes.far.p2p_address,
        "ingest.zmq": json.dumps([near]),
    }
    with Engine(f"drop-in-{os.getpid()}", **keys) as running:
        yield running.start().ready()


def markers(node: Bitcoind, name: str) -> dict[str, bytes]:
    """What each topic says last of a block that holds its coinbase alone."""
    raw = bytes.fromhex(node.rpc("getblock", name, 0))
    (coinbase,) = node.rpc("getblock", name, 2)["tx"]
    return {
        "hashblock": bytes.fromhex(name),
        "rawblock": raw,
        "hashtx": bytes.fromhex(coinbase["txid"]),
        "rawtx": bytes.fromhex(coinbase["hex"]),
        "sequence": bytes.fromhex(name) + b"C",
    }


def tune_in(nodes: TwoNodes, subscribers: Iterable[CoreSubscriber]) -> dict[str, bytes]:
    """Mines until every subscriber hears the block, as a subscription has no acknowledgement."""
    for _ in range(100):
        last = markers(nodes.near, nodes.near.mine(1)[0])
        give_up = time.monotonic() + 0.5
        while time.monotonic() < give_up:
            if all(one.heard(last) for one in subscribers):
                nodes.meet()
                return last
            time.sleep(0.01)
    pytest.fail("a subscriber never heard a block")


def live(nodes: TwoNodes) -> list[str]:
    """The whole run; returns the blocks that the reorganisations connected."""
    reorgs, mined, winners = dict(REORGS), 0, []
    while mined < BLOCKS:
        due = [after for after in reorgs if after <= mined]
        if due:
            depth = reorgs.pop(due[0])
            winners += nodes.reorganise(depth)
            mined += 2 * depth + 1
            continue
        nodes.send(mined % 4)
        (nodes.far if mined % 5 == 0 else nodes.near).mine(1)
        nodes.meet()
        mined += 1
    assert not reorgs
    return winners


class Told(NamedTuple):
    """What a frame said."""

    sequence: int
    kind: Kind
    level: Level
    hash: bytes
    payload: bytes


def frames_of(engine: Engine) -> list[Told]:
    """Every frame in the engine's ring of blocks, in order; none may be lost."""
    told = []
    with Ring.attach(engine.instance, "blocks") as ring, ring.reader("oldest") as reader:
        while (frame := reader.poll()) is not None:
            payload = frame.copy() if frame.kind == Kind.TIP else b""
            assert payload is not None
            told.append(Told(frame.sequence, frame.kind, frame.level, frame.hash, payload))
        assert reader.frames_lost == 0
    return told


def walk(frames: Iterable[Told], level: Level) -> bytes | None:
    """Follows the TIP frames of a level block by block; returns where they end."""
    at: bytes | None = None
    for frame in frames:
        if frame.kind != Kind.TIP or frame.level != level:
            continue
        tip = Tip.unpack(frame.payload)
        if tip.action is TipAction.CONNECTED:
            assert at in (None, tip.previous_hash)
            at = frame.hash
        else:
            assert at in (None, frame.hash)
            at = tip.previous_hash
    return at


def block_hash(raw: bytes) -> bytes:
    """As displayed: reversed double SHA-256 of the header."""
    return hashlib.sha256(hashlib.sha256(raw[:80]).digest()).digest()[::-1]


@pytest.mark.timeout(300)
def test_an_unmodified_subscriber_hears_every_body_of_the_node_and_the_reorgs_in_between(
    nodes: TwoNodes, engine: Engine
) -> None:
    theirs = CoreSubscriber(nodes.near.zmq_address)
    ours = CoreSubscriber(f"tcp://127.0.0.1:{engine.keys['relay.tiers.turbo.zmq_port']}")
    try:
        first = tune_in(nodes, (theirs, ours))
        winners = {bytes.fromhex(name) for name in live(nodes)}
        nodes.near.mine(1)  # empties the mempool
        last = markers(nodes.near, nodes.near.mine(1)[0])
        until(lambda: theirs.heard(last), "the node tells the last block")
        until(lambda: ours.heard(last), "the engine tells the last block")
        frames = frames_of(engine)
    finally:
        theirs.stop()
        ours.stop()
    gave = {topic: theirs.after(topic, first[topic]) for topic in TOPICS}
    heard = {topic: ours.after(topic, first[topic]) for topic in TOPICS}

    assert (theirs.breaks, ours.breaks) == ([], [])
    for topic in ("hashtx", "rawtx", "sequence"):
        assert heard[topic] == gave[topic], topic
    for topic in ("hashblock", "rawblock"):
        assert is_subsequence(gave[topic], heard[topic]), topic
    left_out = Counter(heard["hashblock"]) - Counter(gave["hashblock"])
    assert left_out.keys() <= winners <= set(heard["hashblock"])
    assert [block_hash(raw) for raw in heard["rawblock"]] == heard["hashblock"]
    assert len(heard["hashblock"]) >= BLOCKS
    assert [frame.sequence for frame in frames] == list(range(1, len(frames) + 1))
    for level in (Level.MERKLE, Level.CONNECTED):
        assert walk(frames, level) == last["hashblock"][::-1], level.name
