"""Pytest fixtures that start real nodes, and the summary line that names missing peers.

``bitcoind.start(extra_args=[...])`` returns a running node and may be called several times; all
are stopped when the test ends. ``peer("btclib")`` requires a peer that is not a node.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pytest

from peers import places
from peers.nodes import Bcoin, Bitcoind, Litecoind, Node

NodeKind = TypeVar("NodeKind", bound=Node)
_missed: set[str] = set()


class NodeStarter(Generic[NodeKind]):
    """Starts nodes of one kind and stops them all at the end."""

    def __init__(self, kind: type[NodeKind]) -> None:
        self._kind = kind
        self._nodes: list[NodeKind] = []

    def start(self, extra_args: list[str] | None = None, **options: Any) -> NodeKind:
        """A running node; ``options`` are the node class's own."""
        node = self._kind(extra_args=extra_args or [], **options)
        self._nodes.append(node)
        return node

    def stop_all(self) -> None:
        """Stops what was started."""
        for node in self._nodes:
            node.stop()


def obtain(name: str) -> Path:
    """The peer's path; else skips the test by name, or fails it where the peer is required."""
    try:
        return places.need(name)
    except places.Missing as missing:
        _missed.add(name)
        if places.is_required(name):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def _starter(kind: type[NodeKind]) -> Iterator[NodeStarter[NodeKind]]:
    obtain(kind.name)
    starter = NodeStarter(kind)
    try:
        yield starter
    finally:
        starter.stop_all()


@pytest.fixture
def bitcoind() -> Iterator[NodeStarter[Bitcoind]]:
    """Starts Bitcoin Core nodes on regtest."""
    yield from _starter(Bitcoind)


@pytest.fixture
def litecoind() -> Iterator[NodeStarter[Litecoind]]:
    """Starts Litecoin Core nodes on regtest."""
    yield from _starter(Litecoind)


@pytest.fixture
def bcoin() -> Iterator[NodeStarter[Bcoin]]:
    """Starts bcoin nodes on regtest."""
    yield from _starter(Bcoin)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """``peer(name)``: the path of a peer that is no node (``test-framework``)."""
    return obtain


@pytest.fixture(scope="session")
def btclib() -> ModuleType:
    """The oracle btclib, imported."""
    obtain("btclib")
    return importlib.import_module("btclib")


@pytest.fixture(scope="session")
def pbk() -> ModuleType:
    """The oracle py-bitcoinkernel, imported."""
    obtain("py-bitcoinkernel")
    return importlib.import_module("pbk")


def pytest_configure() -> None:
    """Refuses at once a ``SPRINT_REQUIRE_PEERS`` that names a peer nobody knows."""
    try:
        places.is_required("")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the peers whose absence kept tests from running."""
    if _missed:
        names = ", ".join(sorted(_missed))
        terminalreporter.write_line(f"peers missing, their tests did not run: {names}", red=True)
