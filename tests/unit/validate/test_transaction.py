"""A lone transaction is named when it is well formed and sane."""

from __future__ import annotations

import pytest
from made_blocks import Tx, coinbase, pay, pay_with_witness

from bitcoin_sprint.chains import network
from bitcoin_sprint.errors import TransactionRefused
from bitcoin_sprint.validate import prove_transaction


def refusal(raw: bytes) -> str:
    with pytest.raises(TransactionRefused) as caught:
        prove_transaction(raw)
    return caught.value.reason


def test_ids_come_in_internal_order() -> None:
    for tx in (pay(1), pay_with_witness(1)):
        assert prove_transaction(tx.raw) == (tx.txid, tx.wtxid)
    assert pay(1).txid == pay(1).wtxid
    assert pay_with_witness(1).txid != pay_with_witness(1).wtxid


def test_a_memoryview_will_do() -> None:
    assert prove_transaction(memoryview(pay(1).raw))[0] == pay(1).txid


def test_a_coinbase_passes() -> None:
    assert prove_transaction(coinbase(7).raw)[0] == coinbase(7).txid


def test_every_cut_is_truncated_and_more_is_trailing() -> None:
    raw = pay_with_witness(1).raw
    for length in range(len(raw)):
        assert refusal(raw[:length]) == "truncated"
    assert refusal(raw + b"\x00") == "trailing-bytes"


@pytest.mark.parametrize("count", [2, 3, 10, 1_000])
def test_an_input_twice_is_refused_wherever_it_stands(count: int) -> None:
    """CVE-2018-17144."""
    inputs = [((7919 * i % 10_007).to_bytes(36, "little"), b"") for i in range(count)]
    assert prove_transaction(Tx(inputs).raw)
    for first, second in ((0, count - 1), (count // 2, count - 1), (0, 1)):
        if first != second:
            again = list(inputs)
            again[second] = inputs[first]
            assert refusal(Tx(again).raw) == "bad-txns-inputs-duplicate"


def test_too_long_to_fit_any_block_is_oversize() -> None:
    assert refusal(Tx(outputs=((0, bytes(1_000_000)),)).raw) == "bad-txns-oversize"


def test_money_is_the_chains() -> None:
    raw = Tx(outputs=((50_000_000 * 100_000_000, b""),)).raw
    assert refusal(raw) == "bad-txns-vout-toolarge"
    assert prove_transaction(raw, network("litecoin-main"))
