"""Real nodes on regtest, as child processes on free loopback ports.

A node lives in a temporary directory of its own and leaves nothing behind: ``stop`` asks it to
end, waits, kills it if it does not, and removes the directory. A port taken between the choice
and the bind is met by starting again on other ports.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers import rpc
from peers.places import find, need
from peers.rpc import RpcError
from peers.spender import DESCRIPTOR

_START_SECONDS = 60
_STOP_SECONDS = 60
_POLL_SECONDS = 0.05
_ATTEMPTS = 4
ZMQ_TOPICS = ("hashblock", "rawblock", "hashtx", "rawtx", "sequence")


class NodeFailed(Exception):
    """A node ended, or never answered; the text carries the end of its log."""


def free_port() -> int:
    """A loopback port nobody has now, below the range outgoing connections are given."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NodeFailed("no free loopback port between 20000 and 32000")


class Node:
    """One running node. ``p2p_port`` and ``rpc_port`` are on 127.0.0.1.

    ``extra_args`` are added to the command line; ``environment`` to the process's environment.
    Use it as a context manager, or call ``stop``.
    """

    name: str
    default_timeout = 60.0

    def __init__(
        self, *, extra_args: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.program = need(self.name)
        self.directory = Path(tempfile.mkdtemp(prefix=f"sprint-{self.name}-"))
        self.extra_args = list(extra_args)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start_on_free_ports()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def p2p_address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.p2p_port}"

    @property
    def pid(self) -> int:
        """The process, to be suspended, killed or measured by a test."""
        assert self._process is not None
        return self._process.pid

    @property
    def credentials(self) -> str:
        """``user:password`` for RPC."""
        raise NotImplementedError

    def rpc(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Calls the node; raises RpcError for its refusal and OSError where it does not answer."""
        bound = timeout or self.default_timeout
        return rpc.call(self.rpc_port, self.credentials, method, params, bound)

    def mine(self, count: int = 1) -> list[str]:
        """Mines blocks to an output anyone can spend; returns their hashes as RPC prints them."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self, lines: int = 25) -> str:
        """The end of what the node printed."""
        path = self.directory / "output.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """Ends the process without notice; the data stays, ``restart`` goes on with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Starts the process again on the same ports and data, after ``kill`` or ``shut_down``."""
        self._launch()
        self._await_answer()

    def shut_down(self) -> None:
        """Ends the process in good order; the data stays."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Ends the process and removes all that it left. May be called twice."""
        self.shut_down()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _choose_ports(self) -> None:
        self.p2p_port = free_port()
        self.rpc_port = free_port()

    def _start_on_free_ports(self) -> None:
        for attempt in range(_ATTEMPTS):
            self._choose_ports()
            self._launch()
            try:
                return self._await_answer()
            except NodeFailed as failure:
                self.kill()
                port_was_taken = any(
                    sign in str(failure) for sign in ("Unable to bind", "in use", "EADDRINUSE")
                )
                if attempt == _ATTEMPTS - 1 or not port_was_taken:
                    raise

    def _launch(self) -> None:
        with (self.directory / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=self._environment,
            )

    def _await_answer(self) -> None:
        """Asks until the node answers, as long as it lives and its time is not up."""
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up:
            if not self.is_running():
                raise NodeFailed(f"{self.name} ended at its start:\n{self.log_tail()}")
            try:
                self.rpc("getblockchaininfo", timeout=5)
                return
            except (OSError, RpcError):  # not listening yet, no cookie yet, warming up
                time.sleep(_POLL_SECONDS)
        raise NodeFailed(f"{self.name} never answered:\n{self.log_tail()}")


class Litecoind(Node):
    """Litecoin Core on regtest. Debian's is built without ZeroMQ and speaks P2P and RPC."""

    name = "litecoind"

    @property
    def cookie_file(self) -> Path:
        """Where the node keeps its RPC cookie."""
        return self.directory / "regtest" / ".cookie"

    @property
    def credentials(self) -> str:
        return self.cookie_file.read_text()

    def mine(self, count: int = 1) -> list[str]:
        """Mines blocks that Spender can spend; returns their hashes as RPC prints them."""
        hashes: list[str] = self.rpc("generatetodescriptor", count, DESCRIPTOR)
        return hashes

    def _command(self) -> list[str]:
        return [
            str(self.program),
            *("-regtest", f"-datadir={self.directory}", "-printtoconsole=1", "-server=1"),
            *(f"-port={self.p2p_port}", f"-bind=127.0.0.1:{self.p2p_port}", "-listen=1"),
            *(f"-rpcport={self.rpc_port}", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"),
            *("-dnsseed=0", "-discover=0", "-listenonion=0", "-dns=0"),
            *("-par=1", "-dbcache=32", "-acceptnonstdtxn=1", "-checkmempool=0"),
            *self._own_args(),
            *self.extra_args,
        ]

    def _own_args(self) -> list[str]:
        return ["-upnp=0"] if self.name == "litecoind" else []


class Bitcoind(Litecoind):
    """Bitcoin Core on regtest with every ZeroMQ topic on.

    ``zmq_topics`` picks the topics; ``zmq`` maps each to its address (one socket serves all), and
    the node never drops a message for a slow subscriber unless ``zmq_high_water_mark`` is set.
    """

    name = "bitcoind"

    def __init__(
        self,
        *,
        extra_args: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        zmq_topics: Sequence[str] = ZMQ_TOPICS,
        zmq_high_water_mark: int = 0,
    ) -> None:
        self._topics = tuple(zmq_topics)
        self._high_water_mark = zmq_high_water_mark
        super().__init__(extra_args=extra_args, environment=environment)

    @property
    def zmq_address(self) -> str:
        """``tcp://127.0.0.1:port``, where all topics are published."""
        return f"tcp://127.0.0.1:{self.zmq_port}"

    @property
    def zmq(self) -> dict[str, str]:
        """Each topic's address."""
        return dict.fromkeys(self._topics, self.zmq_address)

    @property
    def rpc_url(self) -> str:
        """Without credentials; these are in ``cookie_file``."""
        return f"http://127.0.0.1:{self.rpc_port}"

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self.zmq_port = free_port()

    def _own_args(self) -> list[str]:
        args = [f"-zmqpub{topic}={self.zmq_address}" for topic in self._topics]
        args += [f"-zmqpub{topic}hwm={self._high_water_mark}" for topic in self._topics]
        return [*args, "-natpmp=0", "-fixedseeds=0"]


class Bcoin(Node):
    """bcoin on regtest, in memory, without a wallet; it makes no connection of its own.

    It runs on its JavaScript back ends. Told its public address, which nobody contacts, it does not
    ask DNS for it.
    """

    name = "bcoin"
    _REWARD = b"\x3c" + hashlib.sha256(b"bitcoin-sprint").digest()[:20]

    @property
    def credentials(self) -> str:
        return "x:sprint"

    def mine(self, count: int = 1) -> list[str]:
        """Mines blocks to an address whose key nobody knows."""
        hashes: list[str] = self.rpc("generatetoaddress", count, _base58check(self._REWARD))
        return hashes

    def _command(self) -> list[str]:
        node = find("bcoin")
        return [
            *("node", str(node), "--network=regtest", "--memory=true", "--no-wallet=true"),
            *(f"--prefix={self.directory}", "--log-level=info", "--workers=false"),
            *("--host=127.0.0.1", f"--port={self.p2p_port}", "--listen=true", "--upnp=false"),
            *("--http-host=127.0.0.1", f"--http-port={self.rpc_port}", "--api-key=sprint"),
            *("--discover=false", "--max-outbound=1", "--public-host=1.1.1.1"),
            *self.extra_args,
        ]

    def _launch(self) -> None:
        self._environment["NODE_BACKEND"] = "js"
        super()._launch()


def _base58check(payload: bytes) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    checksum = hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number = int.from_bytes(payload + checksum, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = alphabet[digit] + digits
    return digits
