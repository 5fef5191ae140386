"""From the start of ``sprintd`` to a subscriber's first frame, and from SIGTERM to its end.

The subscriber is there from the beginning and knocks until the port opens. Caches are warm: the
first start of each kind is not counted. One kind has the simulated node, which is started with the
engine; the other a Bitcoin Core node that is up and mines a block every few moments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psutil

from bench.daemon import command, private_settings, processor_seconds
from bench.report import Effort, Report, Row, progress
from bitcoin_sprint.client import Subscriber

_ROUNDS = {Effort.FULL: 15, Effort.QUICK: 5, Effort.SMOKE: 1}
_FRAME_BOUND_S, _STOP_BOUND_S = 2.0, 5.0
_WAIT_S = 60.0
_BLOCKS_BEFORE = 150
_BLOCK_PAUSE_S = 0.1
_TIER = "turbo"


def run(effort: Effort) -> Report:
    """Starts and stops an engine of all five tiers, some times over, for each kind of source."""
    report = Report("start")
    kinds: dict[str, contextlib.AbstractContextManager[Mapping[str, object] | None]]
    kinds = {"simulated node": contextlib.nullcontext({"sim.enabled": "true"})}
    if effort is not Effort.SMOKE:
        kinds["bitcoind"] = _mining_node()
    for kind, source in kinds.items():
        with source as keys:
            if keys is None:
                progress("bitcoind is missing: run `make peers`")
                continue
            report.rows += _rows(kind, [_round(keys) for _ in range(_ROUNDS[effort] + 1)][1:])
    return report


def _rows(kind: str, rounds: list[tuple[float, float, float]]) -> list[Row]:
    first, taken, stop = (np.array(column) for column in zip(*rounds, strict=True))
    figures = {
        "to the first frame, median": (np.median(first), _FRAME_BOUND_S),
        "to the first frame, worst": (first.max(), _FRAME_BOUND_S),
        "stop, worst": (stop.max(), _STOP_BOUND_S),
    }
    rows = [
        Row(
            name=f"{kind}: {name}",
            ours=float(ours),
            unit="s",
            peer="the bound that we set",
            theirs=bound,
            target=1.0,
        )
        for name, (ours, bound) in figures.items()
    ]
    # What the rest of the machine does not change: all processes together.
    return [*rows, Row(f"{kind}: processor time, median", float(np.median(taken)), "s")]


def _round(keys: Mapping[str, object]) -> tuple[float, float, float]:
    """Seconds to the first frame, processor time by then, and seconds that the stop took."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as claims:
        settings = {**private_settings(folder, claims), **keys}
        port = int(str(settings[f"relay.tiers.{_TIER}.stream_port"]))
        begun = time.monotonic()
        process = subprocess.Popen(command(f"bench-start-{os.getpid()}", settings))
        try:
            _knock(port, process)
            with Subscriber(f"tcp://127.0.0.1:{port}", tier=_TIER, start="oldest") as subscriber:
                if subscriber.receive(_WAIT_S) is None:
                    raise TimeoutError(f"no frame came in {_WAIT_S:g} s")
            served = time.monotonic() - begun
            taken = sum(processor_seconds(psutil.Process(process.pid)).values())
        finally:
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait()
        return served, taken, time.monotonic() - begun


def _knock(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _WAIT_S
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.005)
    raise TimeoutError("sprintd did not come up, see above")


@contextlib.contextmanager
def _mining_node() -> Iterator[Mapping[str, object] | None]:
    """The keys that lead to a Bitcoin Core node which mines; None where there is none."""
    try:
        from peers.nodes import Bitcoind  # a tool of the tests, brought by `make peers`
        from peers.places import find

        if find("bitcoind") is None:
            raise ImportError("bitcoind")
    except ImportError:
        yield None
        return
    stop = threading.Event()
    with Bitcoind(zmq_topics=()) as node:
        node.mine(_BLOCKS_BEFORE)
        miner = threading.Thread(target=_mine, args=(node, stop))
        miner.start()
        try:
            yield {"ingest.p2p": f"127.0.0.1:{node.p2p_port}", "ingest.dns_seeds": "false"}
        finally:
            stop.set()
            miner.join()


def _mine(node: Any, stop: threading.Event) -> None:
    while not stop.wait(_BLOCK_PAUSE_S):
        node.mine(1)
