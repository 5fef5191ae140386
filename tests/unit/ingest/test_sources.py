"""Sources of a configuration: their entries in the rings' table, and which peers are spoken to."""

from __future__ import annotations

from pathlib import Path

import pytest
from intake_rig import rigs

from bitcoin_sprint.chains import network
from bitcoin_sprint.config import load
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.feed import SourceKind
from bitcoin_sprint.ingest.sources import SOURCES_MAX, SourceTable, build_feeds, node_sources


class Entries(dict[int, str]):
    """A source table that can be looked at."""

    def enter(self, index: int, name: str) -> None:
        self[index] = name


def feed_names(**overrides: object) -> list[str]:
    config = load(None, {"network": "regtest", **overrides})
    with rigs() as made:
        intake = made.start().intake
        table = SourceTable(Entries().enter)
        nodes = node_sources(config, table)
        feeds = build_feeds(config, network("regtest"), intake, table, nodes)
        return [feed.name for feed in feeds]


def test_each_source_has_an_entry_and_the_first_is_ours() -> None:
    entries = Entries()
    table = SourceTable(entries.enter)
    source = table.add("peer", SourceKind.P2P)
    assert (source.index, source.trusted) == (1, False)
    assert entries == {0: "sprint", 1: "peer"}


def test_two_sources_of_one_name_are_refused() -> None:
    table = SourceTable(Entries().enter)
    table.add("node", SourceKind.ZMQ)
    with pytest.raises(ConfigError, match="'node'"):
        table.add("node", SourceKind.P2P)


def test_more_sources_than_entries_are_refused() -> None:
    table = SourceTable(Entries().enter)
    for number in range(1, SOURCES_MAX):
        table.add(f"peer {number}", SourceKind.P2P)
    with pytest.raises(ConfigError, match="63 sources"):
        table.add("one more", SourceKind.P2P)


def test_nodes_keep_their_order_and_their_trust() -> None:
    nodes = [
        {"addresses": ["tcp://127.0.0.1:1"], "name": "a", "trusted": False},
        {"addresses": ["tcp://127.0.0.1:2"]},
    ]
    config = load(None, {"network": "regtest", "ingest.zmq": nodes})
    sources = node_sources(config, SourceTable(Entries().enter))
    assert [(each.name, each.trusted, each.kind) for each in sources] == [
        ("a", False, SourceKind.ZMQ),
        ("tcp://127.0.0.1:2", True, SourceKind.ZMQ),
    ]


def test_peers_are_those_of_the_configuration() -> None:
    assert feed_names(**{"ingest.p2p": ["127.0.0.1:1", "127.0.0.1:2"]}) == [
        "p2p 127.0.0.1:1",
        "p2p 127.0.0.1:2",
    ]


def test_files_are_replayed_by_one_feed(tmp_path: Path) -> None:
    (tmp_path / "block").write_bytes(b"looked at later")
    assert feed_names(**{"ingest.replay": [str(tmp_path)]}) == ["replay"]
    with pytest.raises(ConfigError, match=r"ingest\.replay: .*missing"):
        feed_names(**{"ingest.replay": [str(tmp_path / "missing")]})


def test_without_direct_p2p_only_the_simulator_is_spoken_to() -> None:
    assert feed_names(**{"ingest.p2p": ["127.0.0.1:1"], "use_direct_p2p": False}) == []
    simulated = {"sim.enabled": True, "sim.port": 18999, "use_direct_p2p": False}
    assert feed_names(**simulated) == ["p2p 127.0.0.1:18999"]


async def test_each_node_has_a_feed_before_the_peers() -> None:
    nodes = [{"addresses": ["tcp://127.0.0.1:1"], "name": "node-a"}]
    names = feed_names(**{"ingest.zmq": nodes, "ingest.p2p": ["127.0.0.1:2"]})
    assert names == ["node-a", "p2p 127.0.0.1:2"]
