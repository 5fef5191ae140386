"""Transactions at the intake: once each, bounded, and a node's word above a peer's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from intake_rig import NODE, OTHER_PEER, PEER, Rigs, rigs
from regtest_blocks import transaction

from bitcoin_sprint.frames import Kind, Level, MempoolAction
from bitcoin_sprint.ingest import transaction_frames
from bitcoin_sprint.ingest.feed import Stamps, Verdict


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


def test_a_peers_transaction_is_published_once_and_unverified(start: Rigs) -> None:
    rig = start.start()
    raw, txid = transaction(1)
    assert rig.intake.wants_transaction(txid)
    assert rig.intake.on_transaction(PEER, raw, Stamps(0, 5, 6)).verdict is Verdict.ACCEPTED
    assert rig.intake.on_transaction(OTHER_PEER, raw).verdict is Verdict.DUPLICATE
    assert not rig.intake.wants_transaction(txid)
    (frame,) = rig.tx_frames()
    assert (frame.kind, frame.level, frame.hash) == (Kind.TX, Level.UNVERIFIED, txid)
    assert frame.payload == raw
    assert rig.count("source.peer-b.transactions_duplicate") == 1


def test_a_copy_with_another_witness_does_not_hide_the_honest_one(start: Rigs) -> None:
    rig = start.start()
    forged, txid = transaction(1, witness=b"forged")
    honest, same_txid = transaction(1)
    assert txid == same_txid
    rig.intake.on_transaction(PEER, forged)
    assert rig.intake.on_transaction(OTHER_PEER, honest).verdict is Verdict.ACCEPTED
    assert [frame.payload for frame in rig.tx_frames()] == [forged, honest]


def test_a_nodes_acceptance_is_news_after_a_peers_copy_but_not_the_other_way(start: Rigs) -> None:
    rig = start.start(nodes=[NODE])
    raw, _ = transaction(1)
    variant, _ = transaction(1, witness=b"variant")
    rig.intake.on_transaction(PEER, raw)
    assert rig.intake.on_transaction(NODE, raw, verified=True).verdict is Verdict.ACCEPTED
    for again in (raw, variant):
        assert rig.intake.on_transaction(PEER, again).verdict is Verdict.DUPLICATE
    assert [frame.level for frame in rig.tx_frames()] == [Level.UNVERIFIED, Level.CONNECTED]


def test_a_peers_word_that_it_is_verified_counts_nothing(start: Rigs) -> None:
    rig = start.start()
    raw, _ = transaction(1)
    rig.intake.on_transaction(PEER, raw, verified=True)
    assert [frame.level for frame in rig.tx_frames()] == [Level.UNVERIFIED]


def test_a_transaction_that_left_the_mempool_and_came_back_is_news(start: Rigs) -> None:
    rig = start.start(nodes=[NODE])
    raw, txid = transaction(1)
    rig.intake.on_node_connected(NODE, None)
    rig.intake.on_mempool(NODE, MempoolAction.ADDED, txid, 1, raw)
    rig.intake.on_mempool(NODE, MempoolAction.REMOVED, txid, 2)
    rig.intake.on_mempool(NODE, MempoolAction.ADDED, txid, 3, raw)
    kinds = [frame.kind for frame in rig.tx_frames()]
    assert kinds == [Kind.TX, Kind.MEMPOOL, Kind.MEMPOOL, Kind.TX, Kind.MEMPOOL]


@pytest.mark.parametrize("raw", [b"", b"\x02", bytes(60), transaction(1)[0][:-1]])
def test_a_malformed_transaction_is_refused_and_its_sender_punished(
    start: Rigs, raw: bytes
) -> None:
    rig = start.start()
    outcome = rig.intake.on_transaction(PEER, raw)
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.punish
    assert rig.tx_frames() == []
    assert rig.count("transactions_refused") == 1


def test_a_flood_is_cut_off_for_its_peer_alone_and_not_punished(
    start: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_frames, "TRANSACTIONS_BURST_S", 0.01)
    rig = start.start()
    outcomes = [rig.intake.on_transaction(PEER, transaction(n)[0]) for n in range(15)]
    limited = [each for each in outcomes if each.verdict is Verdict.REFUSED]
    assert len(limited) == 5
    assert {(each.reason, each.punish) for each in limited} == {("rate-limit", False)}
    assert rig.count("transactions_limited") == 5
    assert rig.intake.on_transaction(OTHER_PEER, transaction(14)[0]).verdict is Verdict.ACCEPTED
    rig.advance(1)
    assert rig.intake.on_transaction(PEER, transaction(20)[0]).verdict is Verdict.ACCEPTED
