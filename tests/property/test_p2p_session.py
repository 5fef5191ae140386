"""Whatever a peer says, in whatever order, at whatever time: it is followed or dropped, no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from p2p_strategies import any_message
from recording_sink import RecordingSink
from regtest_blocks import chain_of

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.feed import Source, SourceKind, Stamps
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.p2p_connection import Connection
from bitcoin_sprint.ingest.p2p_feed import PeerGroup
from bitcoin_sprint.ingest.p2p_fields import NetworkAddress
from bitcoin_sprint.ingest.p2p_framing import pack_frame
from bitcoin_sprint.ingest.p2p_messages import InvItem, InvType, Message
from bitcoin_sprint.ingest.p2p_session import BLOCKS_IN_FLIGHT_MAX, Session
from bitcoin_sprint.ingest.p2p_transactions import IN_FLIGHT_PER_PEER_MAX
from bitcoin_sprint.ingest.peers import AddressBook

REGTEST = network("regtest")
BLOCKS = chain_of(6)
VERSION = p2p.Version(
    version=70016,
    services=9,
    timestamp=0,
    receiver=NetworkAddress(),
    sender=NetworkAddress(),
    nonce=5,
    user_agent="/any/",
    start_height=0,
)

block_hashes = st.sampled_from([block.hash for block in BLOCKS])
likely = st.one_of(
    st.builds(p2p.Headers, st.lists(st.sampled_from([b.header for b in BLOCKS]), max_size=6)),
    st.builds(p2p.Block, st.sampled_from([b.raw for b in BLOCKS])),
    st.builds(
        p2p.Inv,
        st.lists(st.builds(InvItem, st.sampled_from(list(InvType)), block_hashes), max_size=4),
    ),
    st.builds(
        p2p.NotFound,
        st.lists(st.builds(InvItem, st.sampled_from(list(InvType)), block_hashes), max_size=4),
    ),
)
steps = st.one_of(
    any_message.map(lambda message: ("say", message)),
    likely.map(lambda message: ("say", message)),
    st.binary(max_size=120).map(lambda junk: ("junk", junk)),
    st.floats(0, 40).map(lambda seconds: ("wait", seconds)),
    block_hashes.map(lambda hash: ("fetch", hash)),
)


class QuietSink(RecordingSink):
    """Without an event loop there is nobody to wake."""

    def changed(self) -> None:
        pass


class Wire:
    """A transport that takes what is written."""

    def __init__(self) -> None:
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.aborted, f"nothing is written after the end: {data[:40]!r}"

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


class Rig:
    """One connection with its session, by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sink = QuietSink(REGTEST)
        book = AddressBook(default_port=1)
        group = PeerGroup(REGTEST, self.sink, book, clock=lambda: self.now)
        self.wire = Wire()
        self.connection = Connection(group.options, self, clock=lambda: self.now)
        self.requests = group.requests
        source = Source(1, "peer", SourceKind.P2P)
        self.session = Session(group.setting, source, self.connection, Counter())
        self.causes: list[Cause] = []
        self.connection.connection_made(cast(asyncio.Transport, self.wire))
        for message in (VERSION, p2p.WtxidRelay(), p2p.Verack()):
            self.hear(p2p.pack_message(REGTEST.magic, message))
        assert self.connection.ready

    def on_ready(self) -> None:
        self.session.begin()

    def on_message(self, message: Message, stamps: Stamps) -> None:
        assert not self.causes, "nothing is handed on after the end"
        self.session.on_message(message, stamps)

    def on_block_head(self, header: bytes, stamps: Stamps) -> bool:
        return self.session.on_block_head(header, stamps)

    def on_bad_block_checksum(self) -> None:
        self.session.on_bad_block_checksum()

    def on_closed(self, cause: Cause, detail: str) -> None:
        assert isinstance(detail, str)
        self.causes.append(cause)
        self.session.end(cause)

    def hear(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.causes:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            self.connection.buffer_updated(count)
            view = view[count:]

    def do(self, step: tuple[str, Any]) -> None:
        kind, what = step
        if kind == "say":
            self.hear(p2p.pack_message(REGTEST.magic, what))
        elif kind == "junk":
            self.hear(pack_frame(REGTEST.magic, "inv", what))
        elif kind == "fetch":
            self.session.fetch([what])
        else:
            self.now += what
            self.connection.check()
            if self.connection.ready:
                self.session.check()


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=30))
def test_a_session_survives_or_ends_once_whatever_is_said(steps: list[tuple[str, Any]]) -> None:
    rig = Rig()
    for step in steps:
        rig.do(step)
        assert rig.session.blocks_in_flight <= BLOCKS_IN_FLIGHT_MAX
        assert rig.requests is not None
        assert rig.requests.in_flight(rig.session) <= IN_FLIGHT_PER_PEER_MAX
    rig.connection.connection_lost(None)
    assert len(rig.causes) == 1
    assert rig.wire.aborted
    assert rig.session.blocks_in_flight == 0
    assert len(rig.requests or ()) == 0
