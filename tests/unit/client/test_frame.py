import numpy as np
import pytest
from relay_rig import block_payload, txid_of

from bitcoin_sprint.client import Frame
from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import (
    Flag,
    Kind,
    Mempool,
    MempoolAction,
    Retract,
    Tip,
    TipAction,
)
from bitcoin_sprint.transports.codec import FrameHeader


def frame_of(kind, payload, **fields):
    header = FrameHeader(
        kind=kind, session=1, sequence=2, previous=1, publish_ns=3, length=len(payload), **fields
    )
    return Frame.of(header, memoryview(payload), flags=0, received_ns=9)


def test_a_block_is_taken_apart():
    transactions = [b"coinbase", b"tx"]
    frame = frame_of(Kind.BLOCK, block_payload(transactions))
    assert (frame.ring, frame.length) == ("blocks", len(frame.payload))
    assert frame.header == bytes(80)
    assert bytes(frame.body) == bytes(80) + b"\x02coinbasetx"
    assert frame.offsets.tolist() == [81, 89]
    assert frame.offsets.dtype == np.uint32
    assert [bytes(txid) for txid in frame.txids] == [txid_of(0), txid_of(1)]


def test_what_other_kinds_say_is_unpacked():
    tip = Tip(TipAction.CONNECTED, 5, bytes(32), 1 << 200)
    retract = Retract(6, bytes(32), "bad-txnmrklroot")
    mempool = Mempool(MempoolAction.ADDED, 7, b"raw")
    assert frame_of(Kind.TIP, tip.pack()).tip() == tip
    assert frame_of(Kind.RETRACT, retract.pack()).retract() == retract
    assert frame_of(Kind.MEMPOOL, mempool.pack()).mempool() == mempool
    assert frame_of(Kind.MEMPOOL, mempool.pack()).ring == "tx"


def test_asking_a_frame_for_what_it_is_not_is_a_type_error():
    frame = frame_of(Kind.TX, b"raw")
    for ask in ("body", "offsets", "txids", "header"):
        with pytest.raises(TypeError, match="a TX frame has none"):
            getattr(frame, ask)
    for ask in (frame.tip, frame.retract, frame.mempool):
        with pytest.raises(TypeError, match="a TX frame has none"):
            ask()


@pytest.mark.parametrize(
    ("kind", "ask"), [(Kind.TIP, "tip"), (Kind.RETRACT, "retract"), (Kind.MEMPOOL, "mempool")]
)
def test_a_payload_that_is_none_of_its_kind_is_a_protocol_error(kind, ask):
    for payload in (b"", b"\xff" * 200):
        with pytest.raises(ProtocolError, match=f"{kind.name} with a payload that is none"):
            getattr(frame_of(kind, payload), ask)()


def test_a_block_too_short_for_a_header_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="79 bytes holds no header"):
        _ = frame_of(Kind.HEADER, bytes(79)).header


def test_a_hash_reads_as_people_write_it():
    frame = frame_of(Kind.TX, b"", hash=bytes(31) + b"\xab", flags=Flag.LATE)
    assert frame.hash_hex == "ab" + "00" * 31
    assert frame.late
