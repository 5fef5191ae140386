import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_rig import block_payload, txid_of

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.transports.block_payload import BlockPayload, body_of


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_the_transactions_are_found_again(transactions):
    payload = block_payload(transactions)
    block = BlockPayload.unpack(payload)
    bounds = block.bounds()
    found = [bytes(block.body[a:b]) for a, b in itertools.pairwise(bounds)]
    assert found == transactions
    assert [bytes(row) for row in block.txids] == [txid_of(n) for n in range(len(transactions))]
    assert body_of(memoryview(payload)) == block.body
    assert len(block.body) == 81 + sum(map(len, transactions))


@given(st.data())
def test_a_damaged_trailer_is_refused_or_stays_within_the_payload(data):
    payload = bytearray(block_payload([b"a", b"bb"]))
    at = data.draw(st.integers(81, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        block = BlockPayload.unpack(bytes(payload))
        bounds = block.bounds()
    except ProtocolError:
        return
    assert bounds == sorted(bounds)
    assert bounds[-1] == len(block.body) <= len(payload)


@pytest.mark.parametrize("length", [0, 15, 16, 100])
def test_a_payload_without_a_trailer_is_refused(length):
    with pytest.raises(ProtocolError, match="trailer"):
        BlockPayload.unpack(bytes(length))


def test_transactions_out_of_order_are_refused():
    payload = bytearray(block_payload([b"a", b"bb"]))
    start = -(-(81 + 3) // 8) * 8
    struct.pack_into("<II", payload, start, 82, 81)
    with pytest.raises(ProtocolError, match="out of order"):
        BlockPayload.unpack(bytes(payload)).bounds()
