"""What an unmodified subscriber hears from the engine when the node publishes less than all topics.

An existing subscriber's node often has ``rawblock`` and ``rawtx`` alone, or ``hashblock``. One
bitcoind on regtest is both the engine's only source and the witness.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from core_subscriber import CoreSubscriber
from engines import Engine
from peers import Bitcoind, Spender
from peers.fixtures import NodeStarter

MATURE = 10
pytestmark = pytest.mark.timeout(180)


class Scene:
    """A node, the engine behind it, and a subscriber of each."""

    def __init__(self, node: Bitcoind, engine: Engine) -> None:
        self.node = node
        self.engine = engine
        self.spender = Spender(node)
        self.spender.mine_coins(MATURE)
        self.theirs = CoreSubscriber(node.zmq_address)
        self.ours = CoreSubscriber(f"tcp://127.0.0.1:{engine.keys['relay.tiers.turbo.zmq_port']}")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, f"{what}\n{self.engine.log()}"
            time.sleep(0.02)

    def mine(self) -> bytes:
        """A block that both subscribers must hear of."""
        hash = bytes.fromhex(self.node.mine(1)[0])
        self.until(lambda: self.is_heard(hash), f"block {hash.hex()} is heard")
        return hash

    def is_heard(self, hash: bytes) -> bool:
        return all(hash in one.bodies["hashblock"] for one in (self.theirs, self.ours))

    def tune_in(self) -> bytes:
        """Mines until both hear: a subscription has no acknowledgement."""
        for _ in range(100):
            hash = bytes.fromhex(self.node.mine(1)[0])
            give_up = time.monotonic() + 0.5
            while time.monotonic() < give_up:
                if self.is_heard(hash):
                    return hash
                time.sleep(0.01)
        pytest.fail(f"nobody hears a block\n{self.engine.log()}")

    def of_sequence(self) -> list[str]:
        """The warnings that it is missing."""
        warnings = [each for each in self.engine.events() if each["level"] == "warning"]
        return [each["message"] for each in warnings if "sequence" in each["message"]]


@contextmanager
def scene(node: Bitcoind, **keys: Any) -> Iterator[Scene]:
    by_rpc = {"rpc_url": node.rpc_url, "rpc_cookie": str(node.cookie_file)}
    near = {"name": "near", "addresses": [node.zmq_address], "trusted": True}
    by_p2p = "ingest.p2p" in keys
    settings: dict[str, object] = {
        "tier": "turbo",
        "sim.enabled": False,
        "ingest.dns_seeds": False,
        "ingest.zmq": json.dumps([near if by_p2p else near | by_rpc]),
        **keys,
    }
    with Engine(f"topics-{os.getpid()}", **settings) as engine:
        played = Scene(node, engine.start().ready())
        try:
            yield played
        finally:
            played.theirs.stop()
            played.ours.stop()


def start(bitcoind: NodeStarter[Bitcoind], topics: Sequence[str]) -> Bitcoind:
    return bitcoind.start(zmq_topics=topics)


def test_rawtx_and_blocks_without_sequence_give_every_transaction_that_the_node_gives(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = start(bitcoind, ("rawtx", "hashtx", "rawblock", "hashblock"))
    with scene(node) as played:
        first = played.tune_in()
        coinbase = node.rpc("getblock", first.hex(), 1)["tx"][-1]
        for count in (0, 3, 5):
            sent = [bytes.fromhex(played.spender.send(outputs=2)) for _ in range(count)]
            played.until(
                lambda sent=sent: set(sent) <= set(played.ours.bodies["hashtx"]),
                "transactions of the mempool are heard before their block",
            )
            played.mine()
        last = played.mine()
        coinbase_last = bytes.fromhex(node.rpc("getblock", last.hex(), 1)["tx"][0])
        played.until(lambda: coinbase_last in played.ours.bodies["hashtx"], "the last block's")
        for topic in ("hashblock", "rawblock"):
            given = played.theirs.bodies[topic]
            assert played.ours.bodies[topic][-4:] == given[-4:]
        start_at = bytes.fromhex(coinbase)
        assert played.ours.after("hashtx", start_at) == played.theirs.after("hashtx", start_at)
        count = len(played.theirs.after("hashtx", start_at))
        assert played.ours.bodies["rawtx"][-count:] == played.theirs.bodies["rawtx"][-count:]
        assert played.ours.breaks == []
        assert {body[-1:] for body in played.ours.bodies["sequence"]} == {b"C"}
        (warning,) = played.of_sequence()
        assert "-zmqpubsequence" in warning


@pytest.mark.parametrize("by_p2p", [False, True], ids=["rpc", "p2p"])
def test_hashblock_alone_gives_bodies_transactions_and_the_reorgs_in_between(
    bitcoind: NodeStarter[Bitcoind], by_p2p: bool
) -> None:
    node = start(bitcoind, ("hashblock",))
    with scene(node, **({"ingest.p2p": node.p2p_address} if by_p2p else {})) as played:
        played.tune_in()
        sent = bytes.fromhex(played.spender.send(outputs=2))
        old = played.mine()
        played.until(lambda: sent in played.ours.bodies["hashtx"], "its block's transactions")
        raw = bytes.fromhex(node.rpc("getblock", old.hex(), 0))
        played.until(lambda: raw in played.ours.bodies["rawblock"], "its body")
        node.rpc("invalidateblock", old.hex())
        played.spender.send(outputs=2)  # else the same block would be made again
        node.mine(1)
        new = played.mine()
        played.until(lambda: new + b"C" in played.ours.bodies["sequence"], "the reorg is told")
        told = played.ours.bodies["sequence"]
        assert told[told.index(old + b"D") :][::2] == [old + b"D", new + b"C"]
        # Where the node can't be asked what it publishes, it takes a moment to know.
        played.until(lambda: bool(played.mine() and played.of_sequence()), "it is warned of")
        assert len(played.of_sequence()) == 1
