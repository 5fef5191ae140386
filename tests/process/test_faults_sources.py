"""Nodes and peers that are down, wrong or mute: each costs a line, none another's blocks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core_subscriber import CoreSubscriber
from engines import Engine
from peers import Bitcoind
from peers.fixtures import NodeStarter
from peers.nodes import free_port

from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.ingest.source_state import SourceState

WARMING_UP = b'{"result":null,"error":{"code":-28,"message":"Loading block index"},"id":0}'


class Strangers:
    """Servers that are no node: each behaves in one way towards whoever connects."""

    def __init__(self) -> None:
        self._listeners: list[socket.socket] = []
        self._taken: list[socket.socket] = []

    def serve(self, behave: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, behave), daemon=True).start()
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            self._taken.append(taken)
            threading.Thread(target=_quietly, args=(behave, taken), daemon=True).start()

    def close(self) -> None:
        for each in (*self._listeners, *self._taken):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _quietly(behave: Callable[[socket.socket], None], taken: socket.socket) -> None:
    with contextlib.suppress(OSError):
        behave(taken)


def is_mute(_taken: socket.socket) -> None:
    """Takes the connection and never says a word."""


def hangs_up(taken: socket.socket) -> None:
    taken.close()


def babbles(taken: socket.socket) -> None:
    taken.sendall(bytes(range(1, 256)) * 16)


def speaks_http(taken: socket.socket) -> None:
    taken.recv(4096)
    taken.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    taken.close()


def warms_up(taken: socket.socket) -> None:
    while taken.recv(65_536):
        head = f"HTTP/1.1 500 Error\r\nContent-Length: {len(WARMING_UP)}\r\n\r\n"
        taken.sendall(head.encode() + WARMING_UP)


@pytest.fixture
def strangers() -> Iterator[Strangers]:
    made = Strangers()
    yield made
    made.close()


@pytest.fixture
def absent() -> Iterator[Callable[[], int]]:
    """Gives ports at which nobody listens, and nobody else will."""
    with contextlib.ExitStack() as held:

        def port() -> int:
            each = held.enter_context(socket.socket())
            each.bind(("127.0.0.1", 0))
            return int(each.getsockname()[1])

        yield port


class Sourced(Engine):
    """An engine without simulation, fed by ``peers`` and by ``nodes``."""

    def __init__(self, name: str, peers: list[str], nodes: list[dict[str, Any]], **keys: Any):
        super().__init__(
            f"{name}-{os.getpid()}",
            **{
                "tier": "turbo",
                "sim.enabled": False,
                "ingest.dns_seeds": False,
                "ingest.p2p": ",".join(peers),
                "ingest.zmq": json.dumps(nodes),
                **keys,
            },
        )

    def figures(self) -> dict[str, int]:
        snapshot = read_snapshot(self.instance, "ingest")
        return snapshot["counters"] if snapshot else {}

    def state(self, source: str) -> str:
        return SourceState(self.figures().get(f"source.{source}.state", 0)).word

    def lines(self, source: str) -> list[str]:
        """What the log says of a source, without its name."""
        return [
            event["message"].removeprefix(f"{source}: ")
            for event in self.events()
            if event["message"].startswith(f"{source}: ")
        ]


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def node_at(name: str, zmq: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "addresses": [zmq], **keys}


def of(node: Bitcoind, name: str = "near", **keys: Any) -> dict[str, Any]:
    """A real node as a trusted source."""
    known = {"rpc_url": node.rpc_url, "rpc_cookie": str(node.cookie_file), "trusted": True}
    return node_at(name, node.zmq_address, **{**known, **keys})


def test_sources_that_are_wrong_in_every_way_are_told_once_each_and_harm_no_other(
    bitcoind: NodeStarter[Bitcoind], strangers: Strangers, absent: Callable[[], int]
) -> None:
    zmqs = [f"tcp://{at(free_port())}" for _ in range(4)]
    good = bitcoind.start([f"-zmqpubsequence={zmq}" for zmq in zmqs])
    headline = bitcoind.start(zmq_topics=("hashblock",))
    good.mine(3)
    headline.rpc("addnode", good.p2p_address, "onetry")
    ports = {
        behave: strangers.serve(behave)
        for behave in (is_mute, hangs_up, babbles, speaks_http, warms_up)
    }
    rpc = {"rpc_url": good.rpc_url, "rpc_cookie": str(good.cookie_file)}
    mute = f"tcp://{at(ports[is_mute])}"
    mute_too = f"tcp://{at(strangers.serve(is_mute))}"
    gone = [f"tcp://{at(absent())}" for _ in range(3)]
    nodes = {
        "absent": (node_at("absent", gone[0], rpc_url=f"http://{at(absent())}"), "down"),
        "absent-alone": (node_at("absent-alone", gone[1]), "down"),
        "mute-alone": (node_at("mute-alone", mute), "down"),
        "http-alone": (node_at("http-alone", f"tcp://{at(ports[speaks_http])}"), "down"),
        "no-zmq": (node_at("no-zmq", gone[2], **rpc), "no zmq"),
        "mute-zmq": (node_at("mute-zmq", mute_too, **rpc), "no zmq"),
        "password": (
            node_at("password", zmqs[0], rpc_url=good.rpc_url, rpc_user="u", rpc_password="x"),
            "unauthorized",
        ),
        "cookie": (
            node_at("cookie", zmqs[1], rpc_url=good.rpc_url, rpc_cookie="/nowhere/.cookie"),
            "unauthorized",
        ),
        "starting": (
            node_at("starting", zmqs[2], rpc_url=f"http://{at(ports[warms_up])}"),
            "warming up",
        ),
        "no-rpc": (
            node_at("no-rpc", zmqs[3], rpc_url=f"http://{at(ports[speaks_http])}"),
            "no rpc",
        ),
        "headline": (of(headline, "headline", trusted=False), "ready"),
        "near": (of(good), "ready"),
    }
    peers = {
        at(absent()): "down",
        at(ports[is_mute]): "connecting",  # its ten seconds are not over
        at(ports[hangs_up]): "no handshake",
        at(ports[babbles]): "wrong network",
        at(ports[speaks_http]): "wrong network",
        good.p2p_address: "ready",
    }
    expected = {name: state for name, (_, state) in nodes.items()}
    expected |= {f"p2p {address}": state for address, state in peers.items()}
    listed = [entry for entry, _ in nodes.values()]
    with Sourced("wrong", list(peers), listed) as engine:
        engine.start().ready()
        engine.until(lambda: {name: engine.state(name) for name in expected} == expected)
        tip = good.mine(3)[-1]
        engine.until(lambda: engine.figures()["connected_height"] == 6)
        engine.until(lambda: engine.figures().get("source.headline.up") == 1)
        for name, state in expected.items():
            told = engine.lines(name)
            if state in ("ready", "connecting"):
                assert [line for line in told if "trying on" in line] == [], name
            else:
                assert len(told) == 1, told
                assert engine.figures()[f"source.{name}.episodes"] == 1
        assert "Traceback" not in engine.log()
        assert good.rpc("getbestblockhash") == tip
        assert engine.stop() == 0


def test_a_node_that_is_away_comes_back_on_another_tip_and_is_told_of_in_two_lines(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start()
    node.mine(4)
    with Sourced("away", [node.p2p_address], [of(node)]) as engine:
        engine.start().ready()
        engine.until(lambda: engine.state("near") == "ready")
        address = f"tcp://127.0.0.1:{engine.keys['relay.tiers.turbo.zmq_port']}"
        peer = f"p2p {node.p2p_address}"
        engine.until(lambda: engine.state(peer) == "ready")
        node.shut_down()
        engine.until(lambda: engine.state("near") == engine.state(peer) == "down")
        engine.until(lambda: engine.figures()["connected_up"] == 0)
        engine.until(lambda: engine.figures()["source.near.attempts"] >= 3)
        _reorganise_alone(node, depth=2)
        subscriber = CoreSubscriber(address)
        try:
            node.restart()
            engine.until(lambda: engine.state("near") == engine.state(peer) == "ready")
            engine.until(lambda: engine.figures()["connected_up"] == 1)
            newest = node.mine(1)[0]
            engine.until(lambda: engine.figures()["connected_height"] == 6)
            engine.until(lambda: bytes.fromhex(newest) in subscriber.bodies["hashblock"])
        finally:
            subscriber.stop()
        for name in ("near", peer, "trusted nodes"):
            begun, ended = [line for line in engine.lines(name) if line != "connected"]
            assert begun.endswith("; trying on")
            assert ended.startswith("well again after")
        (line,) = [each for each in engine.events() if each["message"].startswith("near: well")]
        assert line["attempts"] >= 3
        assert line["lasted_s"] > 0
        assert engine.stop() == 0


def _reorganise_alone(node: Bitcoind, depth: int) -> None:
    """Let a stopped node find another, longer chain where nobody sees it."""
    seen = (node.p2p_port, node.rpc_port, node.zmq_port)
    node._choose_ports()
    node.restart()
    fork = node.rpc("getblockhash", node.rpc("getblockcount") - depth + 1)
    node.rpc("invalidateblock", fork)
    node.mine(depth + 1)
    node.shut_down()
    node.p2p_port, node.rpc_port, node.zmq_port = seen


def test_a_node_that_hangs_costs_rpc_alone_and_is_taken_up_again(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node, other = bitcoind.start(), bitcoind.start()
    node.mine(2)
    other.rpc("addnode", node.p2p_address, "onetry")
    with Sourced("hang", [other.p2p_address], [of(node)]) as engine:
        engine.start().ready()
        engine.until(lambda: engine.state("near") == "ready")
        engine.until(lambda: engine.figures()["tip_height"] == 2)
        os.kill(node.pid, signal.SIGSTOP)
        try:
            other.mine(1)
            engine.until(lambda: engine.figures()["tip_height"] == 3)
            engine.until(lambda: engine.state("near") == "no rpc")
        finally:
            os.kill(node.pid, signal.SIGCONT)
        engine.until(lambda: engine.figures()["connected_height"] == 3)
        engine.until(lambda: engine.state("near") == "ready")
        begun, ended = engine.lines("near")
        assert "did not answer within" in begun
        assert ended.startswith("well again after")
        assert engine.stop() == 0


def test_a_node_of_another_network_is_named_by_rpc_and_by_p2p(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start()
    with Sourced("foreign", [node.p2p_address], [of(node)], network="testnet4") as engine:
        engine.start().ready()
        peer = f"p2p {node.p2p_address}"
        engine.until(lambda: engine.state("near") == "wrong network")
        engine.until(lambda: engine.state(peer) == "no handshake")
        node.mine(1)
        engine.until(lambda: engine.figures()["source.near.attempts"] >= 3)
        (told,) = engine.lines("near")
        assert "is a node of regtest, network is 'testnet4'" in told
        (told,) = engine.lines(peer)
        assert "is it of this network?" in told
        assert engine.figures()["headers_published"] == 0
        assert engine.stop() == 0


def test_ingest_out_of_descriptors_goes_on_and_has_its_sources_back_with_them(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start()
    node.mine(1)
    with Sourced("starved", [node.p2p_address], [of(node)]) as engine:
        engine.start().ready()
        engine.until(lambda: engine.state("near") == "ready")
        pid = engine.pid("ingest")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        node.shut_down()
        node.restart()
        engine.until(lambda: engine.state("near") not in ("ready", "connecting"))
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        engine.until(lambda: engine.figures()["source.near.attempts"] >= 3)
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= used
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        engine.until(lambda: engine.state("near") == "ready")
        node.mine(1)
        engine.until(lambda: engine.figures()["connected_height"] == 2)
        assert engine.pid("ingest") == pid
        assert "Traceback" not in engine.log()
        assert engine.stop() == 0
