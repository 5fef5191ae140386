"""Which sources the configuration names: their entries in the rings' table, and their feeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.config import Config
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.feed import Feed, Sink, Source, SourceKind
from bitcoin_sprint.ingest.p2p_feed import PeerGroup, p2p_feeds
from bitcoin_sprint.ingest.peers import AddressBook
from bitcoin_sprint.ingest.replay import ReplayFeed
from bitcoin_sprint.ingest.zmq_feed import ZmqFeed

SOURCES_MAX: Final = 64
"""Entries in a ring's source table; the first stands for the engine itself."""
OURSELVES: Final = "sprint"


class SourceTable:
    """Hands out the entries of the rings' source table. ``enter`` writes one there."""

    def __init__(self, enter: Callable[[int, str], None]) -> None:
        self._enter = enter
        self._names = [OURSELVES]
        enter(0, OURSELVES)

    def add(self, name: str, kind: SourceKind, *, trusted: bool = False) -> Source:
        """Enter a source. ConfigError when there are too many, or two of one name."""
        if len(self._names) >= SOURCES_MAX:
            raise ConfigError(
                f"ingest: more than {SOURCES_MAX - 1} sources (nodes of ingest.zmq, peers of "
                "ingest.p2p, ingest.outbound_count)"
            )
        if name in self._names:
            raise ConfigError(f"ingest: two sources are called {name!r}")
        index = len(self._names)
        self._names.append(name)
        self._enter(index, name)
        return Source(index, name, kind, trusted)


def node_sources(config: Config, table: SourceTable) -> list[Source]:
    """Enter the nodes of ``ingest.zmq``, in their order: the first trusted one's word counts."""
    return [
        table.add(node.name or node.addresses[0], SourceKind.ZMQ, trusted=node.trusted)
        for node in config.ingest.zmq
    ]


def build_feeds(
    config: Config, network: Network, sink: Sink, table: SourceTable, nodes: Sequence[Source]
) -> list[Feed]:
    """Make every feed that the configuration asks for; ``nodes``: the sources of ``node_sources``.

    To be called in the event loop's thread. Raises ConfigError for addresses that can't be right.
    """
    lines = zip(nodes, config.ingest.zmq, strict=True)
    return [
        *(ZmqFeed(sink, source, node, network) for source, node in lines),
        *_peers(config, network, sink, table),
        *_files(config, network, sink, table),
    ]


def _files(config: Config, network: Network, sink: Sink, table: SourceTable) -> Sequence[Feed]:
    paths = config.ingest.replay
    if not paths:
        return []
    source = table.add("replay", SourceKind.REPLAY)
    ingest = config.ingest
    delay_s = ingest.replay_delay_ns / 1e9
    feed = ReplayFeed(sink, source, network, paths, speed=ingest.replay_speed, delay_s=delay_s)
    return [feed]


def _peers(config: Config, network: Network, sink: Sink, table: SourceTable) -> Sequence[Feed]:
    ingest = config.ingest
    if not (config.use_direct_p2p or config.sim.enabled):
        return []
    finds_peers = ingest.dns_seeds and config.use_direct_p2p and not config.sim.enabled
    book = AddressBook(
        default_port=network.default_port,
        dns_seeds=network.dns_seeds if finds_peers else (),
    )
    return p2p_feeds(
        PeerGroup(network, sink, book),
        table.add,
        fixed=ingest.p2p if config.use_direct_p2p else [f"127.0.0.1:{config.sim.port}"],
        outbound_count=ingest.outbound_count,
    )
