"""A block is refused for exactly the reason that Bitcoin Core would give, or it passes whole."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_blocks import (
    NONCE,
    NULL_OUTPOINT,
    REGTEST,
    Made,
    Tx,
    coinbase,
    commit,
    good_block,
    mine,
    pay,
    pay_with_witness,
)
from oracle.block import merkle, push_of_height, sha256d

from bitcoin_sprint.chains import Network, network
from bitcoin_sprint.errors import BlockRefused
from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC
from bitcoin_sprint.validate import prove_block

MAIN = network("main")


def refusal(raw: bytes, net: Network = REGTEST, height: int | None = None) -> tuple[str, bool]:
    with pytest.raises(BlockRefused) as caught:
        prove_block(raw, net, height=height)
    return caught.value.reason, caught.value.mutated


def with_body(body: bytes) -> bytes:
    """A mined header, then a body that need not fit it."""
    return mine(bytes(32)) + body


def test_a_good_block_passes_with_its_ids_offsets_and_weight() -> None:
    block = good_block()
    raw = block.raw
    proved = prove_block(raw, REGTEST, height=100)
    assert proved.hash == REGTEST.block_hash(raw)
    assert proved.header == raw[:80]
    assert proved.height == 100
    assert proved.tx_count == 7
    assert proved.bytes == len(raw)
    assert proved.has_witness
    assert [bytes(txid) for txid in proved.txids] == [tx.txid for tx in block.transactions]
    for offset, tx in zip(proved.offsets.tolist(), block.transactions, strict=True):
        assert raw[offset : offset + len(tx.raw)] == tx.raw
    base = 81 + sum(len(tx.base) for tx in block.transactions)
    assert proved.weight == 3 * base + len(raw)


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 31, 33, 64, 255, 300])
def test_every_shape_of_the_merkle_tree_is_proved(count: int) -> None:
    block = good_block(plain=count - 1, witnesses=0)
    assert prove_block(block.raw, REGTEST).tx_count == count


def test_the_trailer_is_laid_out_as_frames_say() -> None:
    raw = good_block(plain=2).raw
    proved = prove_block(raw, REGTEST)
    payload = b"".join(proved.payload)
    body_bytes, count, version, magic = BLOCK_FOOTER.unpack(payload[-BLOCK_FOOTER.size :])
    assert (body_bytes, count, version, magic) == (len(raw), 6, 1, BLOCK_TRAILER_MAGIC)
    txids_at = len(payload) - BLOCK_FOOTER.size - 32 * count
    assert txids_at % 8 == 0
    assert payload[txids_at : txids_at + 32] == bytes(proved.txids[0])
    offsets_at = len(raw) + -len(raw) % 8
    found = np.frombuffer(payload, "<u4", count, offsets_at)
    assert found.tolist() == proved.offsets.tolist()
    assert not any(payload[len(raw) : offsets_at])


def test_a_memoryview_is_proved_in_place_and_what_comes_out_cannot_be_written() -> None:
    raw = bytearray(good_block().raw)
    proved = prove_block(memoryview(raw), REGTEST)
    assert proved.trailer.readonly
    assert not proved.txids.flags.writeable


def test_the_height_is_the_coinbases_claim_where_none_is_given() -> None:
    assert prove_block(good_block(height=70_000).raw, REGTEST).height == 70_000
    block = good_block()
    block.version = 1
    assert prove_block(block.raw, network("regtest")).height is None


@pytest.mark.parametrize("height", [1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 8_388_608])
def test_the_coinbase_must_open_with_its_height(height: int) -> None:
    raw = good_block(height).raw
    assert prove_block(raw, REGTEST, height=height).height == height
    assert refusal(raw, height=height + 1) == ("bad-cb-height", False)


@pytest.mark.parametrize(
    "script",
    [b"", b"\x02\x64\x00", b"\x01\xe4", b"\x4c\x01\x64", b"\x01", b"\x05\x64\x00\x00\x00\x00"],
    ids=["none", "padded", "negative", "pushdata1", "cut", "long"],
)
def test_a_height_in_another_form_is_none(script: bytes) -> None:
    first = coinbase(0, script=script + bytes(2))
    assert refusal(Made([first]).raw, height=100) == ("bad-cb-height", False)


def test_heights_below_bip34_are_not_asked_for() -> None:
    assert prove_block(Made([coinbase(5)]).raw, REGTEST, height=0).height == 0


# --- header ---------------------------------------------------------------------------------


def test_a_header_that_misses_its_target_is_high_hash() -> None:
    raw = bytearray(good_block().raw)
    raw[72:76] = (0x1D00FFFF).to_bytes(4, "little")
    assert refusal(bytes(raw)) == ("high-hash", True)


@pytest.mark.parametrize("bits", [0, 0x01003456, 0x04923456, 0xFF123456, 0x21010000, 0x220000FF])
def test_a_target_that_is_none_is_high_hash(bits: int) -> None:
    raw = bytearray(good_block().raw)
    raw[72:76] = bits.to_bytes(4, "little")
    assert refusal(bytes(raw)) == ("high-hash", True)


def test_a_target_easier_than_the_networks_limit_is_high_hash() -> None:
    assert refusal(good_block().raw, MAIN) == ("high-hash", True)


@pytest.mark.parametrize("length", [0, 1, 79])
def test_less_than_a_header_is_truncated(length: int) -> None:
    assert refusal(good_block().raw[:length]) == ("truncated", True)


# --- form ------------------------------------------------------------------------------------


def test_every_cut_is_truncated() -> None:
    raw = good_block(plain=1, witnesses=1).raw
    for length in range(80, len(raw)):
        assert refusal(raw[:length]) == ("truncated", True)


def test_bytes_after_the_last_transaction_are_refused() -> None:
    assert refusal(good_block().raw + b"\x00") == ("trailing-bytes", True)


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (b"\xfd\x01\x00", "non-canonical-size"),
        (b"\xfe\x01\x00\x00\x00", "non-canonical-size"),
        (b"\xff\x01" + bytes(7), "non-canonical-size"),
        (b"\xfe\xff\xff\x00\x00", "non-canonical-size"),
        (b"\xfe\x01\x00\x00\x02", "size-too-large"),
        (b"\xff" * 9, "size-too-large"),
        (b"\xfd\xff\xff", "truncated"),
    ],
)
def test_counts_that_lie_are_refused_at_once(count: bytes, reason: str) -> None:
    tx = coinbase(1).raw
    assert refusal(with_body(count + tx)) == (reason, True)
    after_version = b"\x01" + tx[:4] + count + tx[5:]
    assert refusal(with_body(after_version)) == (reason, True)
    in_script = b"\x01" + tx[:41] + count + tx[42:]
    assert refusal(with_body(in_script)) == (reason, True)
    witnessed = pay_with_witness(1).raw
    at = witnessed.index(b"\x02\x03sig")
    assert refusal(with_body(b"\x01" + witnessed[:at] + count + witnessed[at + 1 :])) == (
        reason,
        True,
    )


def test_a_witness_flag_without_witness_is_superfluous() -> None:
    tx = pay(1)
    raw = tx.base[:4] + b"\x00\x01" + tx.body + b"\x00" + tx.base[-4:]
    assert refusal(with_body(b"\x01" + raw)) == ("superfluous-witness", True)
    nothing = bytes(4) + b"\x00\x01\x00\x00" + bytes(4)
    assert refusal(with_body(b"\x01" + nothing)) == ("superfluous-witness", True)


@pytest.mark.parametrize("flags", [2, 3, 8, 9, 0x80, 0xFF])
def test_unknown_flags_are_refused(flags: int) -> None:
    raw = bytearray(pay_with_witness(1).raw)
    raw[5] = flags
    assert refusal(with_body(b"\x01" + bytes(raw))) == ("unknown-tx-flags", True)


def test_more_bytes_than_a_block_may_have_are_refused_unread() -> None:
    raw = good_block().raw
    assert refusal(raw + bytes(4_000_001 - len(raw))) == ("bad-blk-length", True)


# --- mutation --------------------------------------------------------------------------------


def test_another_body_under_the_same_header_is_bad_txnmrklroot() -> None:
    block = good_block()
    block.mined_for = block.transactions
    block.transactions = [*block.transactions[:-1], pay(99)]
    assert refusal(block.raw) == ("bad-txnmrklroot", True)


def test_no_transactions_do_not_make_a_merkle_root() -> None:
    assert refusal(with_body(b"\x00")) == ("bad-blk-length", False)
    assert refusal(mine(bytes(32), b"\x01" * 32) + b"\x00") == ("bad-txnmrklroot", True)


@pytest.mark.parametrize(("count", "repeated"), [(3, 1), (6, 2), (5, 1), (7, 1), (10, 2), (12, 4)])
def test_a_repeated_branch_is_bad_txns_duplicate(count: int, repeated: int) -> None:
    """CVE-2012-2459: the last transactions again give the same root."""
    block = good_block(plain=count - 1, witnesses=0)
    prove_block(block.raw, REGTEST)
    block.mined_for = block.transactions
    block.transactions = [*block.transactions, *block.transactions[-repeated:]]
    assert refusal(block.raw) == ("bad-txns-duplicate", True)


def test_stripped_witnesses_are_bad_witness_nonce_size() -> None:
    block = good_block()
    block.transactions = [replace(tx, witnesses=()) for tx in block.transactions]
    assert refusal(block.raw) == ("bad-witness-nonce-size", True)


@pytest.mark.parametrize("stack", [((),), ((bytes(31),),), ((bytes(33),),), ((NONCE, b""),)])
def test_a_witness_nonce_must_be_32_bytes_alone(stack: tuple[tuple[bytes, ...]]) -> None:
    block = good_block(witnesses=0)
    first, *others = block.transactions
    witnesses = () if stack == ((),) else stack
    block.transactions = [replace(first, witnesses=witnesses), *others]
    assert refusal(block.raw) == ("bad-witness-nonce-size", True)


@pytest.mark.parametrize("which", [0, -1])
def test_a_changed_witness_is_bad_witness_merkle_match(which: int) -> None:
    block = good_block()
    changed = list(block.transactions)
    stack = (bytes(32),) if which == 0 else (b"other", b"witness")
    changed[which] = replace(changed[which], witnesses=(stack,))
    block.transactions = changed
    assert refusal(block.raw) == ("bad-witness-merkle-match", True)


def test_the_last_commitment_counts() -> None:
    others = [pay_with_witness(1)]
    first = commit(coinbase(1), others)
    wrong = (0, bytes.fromhex("6a24aa21a9ed") + bytes(32))
    early = replace(first, outputs=(wrong, *first.outputs))
    late = replace(first, outputs=(*first.outputs, wrong))
    assert prove_block(Made([early, *others]).raw, REGTEST).tx_count == 2
    assert refusal(Made([late, *others]).raw) == ("bad-witness-merkle-match", True)


def test_a_witness_without_commitment_is_unexpected() -> None:
    raw = Made([coinbase(1), pay_with_witness(1)]).raw
    assert refusal(raw) == ("unexpected-witness", True)


def before_segwit(height: int) -> Network:
    fields = {name: getattr(REGTEST, name) for name in REGTEST.__struct_fields__}
    return Network(**{**fields, "segwit_height": height})


def test_before_segwit_no_witness_is_allowed_and_a_commitment_means_nothing() -> None:
    net = before_segwit(101)
    block = good_block(height=100)
    assert refusal(block.raw, net, height=100) == ("unexpected-witness", True)
    assert refusal(block.raw, net) == ("unexpected-witness", True)
    block.transactions = [replace(tx, witnesses=()) for tx in block.transactions]
    assert prove_block(block.raw, net, height=100).tx_count == 7
    assert prove_block(block.raw, net).tx_count == 7
    assert refusal(block.raw, before_segwit(100)) == ("bad-witness-nonce-size", True)


def test_without_any_height_a_witness_itself_asks_for_a_commitment() -> None:
    net = before_segwit(101)
    block = good_block()
    block.version = 1
    assert prove_block(block.raw, net).has_witness
    block.transactions = [block.transactions[0], pay_with_witness(77)]
    assert refusal(block.raw, net) == ("bad-witness-merkle-match", True)


def sixty_four_bytes() -> Tx:
    return Tx(((bytes([7]) * 36, b""),), ((1, bytes(4)),))


def test_a_64_byte_transaction_matters_only_without_a_coinbase() -> None:
    """Such a transaction may be two hashes of the merkle tree in disguise."""
    small = sixty_four_bytes()
    assert len(small.base) == 64
    assert refusal(Made([small]).raw) == ("bad-cb-missing", True)
    assert refusal(Made([pay(1)]).raw) == ("bad-cb-missing", False)
    assert prove_block(Made([coinbase(1), small]).raw, REGTEST).tx_count == 2


# --- sanity ------------------------------------------------------------------------------------


def test_a_second_coinbase_is_refused() -> None:
    raw = Made([coinbase(1), coinbase(2)]).raw
    assert refusal(raw) == ("bad-cb-multiple", False)


@pytest.mark.parametrize("length", [0, 1, 101])
def test_a_coinbase_script_has_2_to_100_bytes(length: int) -> None:
    raw = Made([coinbase(0, script=b"\x51" * length)]).raw
    assert refusal(raw) == ("bad-cb-length", False)


COIN = 100_000_000

FAULTS: list[tuple[str, Callable[[Tx], Tx]]] = [
    ("bad-txns-vout-empty", lambda tx: replace(tx, outputs=())),
    ("bad-txns-vout-negative", lambda tx: replace(tx, outputs=((-1, b""),))),
    ("bad-txns-vout-toolarge", lambda tx: replace(tx, outputs=((21_000_000 * COIN + 1, b""),))),
    (
        "bad-txns-txouttotal-toolarge",
        lambda tx: replace(tx, outputs=((21_000_000 * COIN, b""), (1, b""))),
    ),
    (
        "bad-txns-prevout-null",
        lambda tx: replace(tx, inputs=((bytes([3]) * 36, b""), (NULL_OUTPOINT, b""))),
    ),
    ("bad-txns-oversize", lambda tx: replace(tx, outputs=((0, bytes(1_000_000)),))),
]


@pytest.mark.parametrize(("reason", "spoil"), FAULTS, ids=[reason for reason, _ in FAULTS])
def test_a_committed_transaction_that_breaks_a_rule_condemns_the_block(
    reason: str, spoil: Callable[[Tx], Tx]
) -> None:
    raw = Made([coinbase(1), spoil(pay(1))]).raw
    expected = "bad-blk-length" if reason == "bad-txns-oversize" else reason
    assert refusal(raw) == (expected, False)


def test_an_empty_transaction_is_vin_empty() -> None:
    empty = struct.pack("<i", 2) + b"\x00\x00" + bytes(4)
    first = coinbase(1)
    header = mine(bytes(32), merkle([first.txid, sha256d(empty)])[0])
    assert refusal(header + b"\x02" + first.raw + empty) == ("bad-txns-vin-empty", False)


def test_a_block_of_too_much_weight_is_refused_only_once_it_is_proved() -> None:
    others = [pay(1, witnesses=((bytes(3_500_000),),)), pay(2, outputs=((0, bytes(200_000)),))]
    raw = Made([commit(coinbase(1), others), *others]).raw
    assert len(raw) < 4_000_000
    assert refusal(raw) == ("bad-blk-weight", False)


def test_the_first_coinbase_fault_is_named_before_those_of_other_transactions() -> None:
    """Core asks for a single coinbase before it looks at any transaction."""
    raw = Made([coinbase(0, script=b""), coinbase(2)]).raw
    assert refusal(raw) == ("bad-cb-multiple", False)


def test_the_refusal_names_the_transaction_and_the_byte() -> None:
    block = good_block(witnesses=0)
    spoiled = replace(block.transactions[2], outputs=((-1, b""),))
    block.transactions = [coinbase(100), block.transactions[1], spoiled, *block.transactions[3:]]
    with pytest.raises(BlockRefused, match="transaction 2"):
        prove_block(block.raw, REGTEST)


def test_heights_are_written_as_core_writes_them() -> None:
    assert push_of_height(17) == b"\x01\x11"
    assert push_of_height(128) == b"\x02\x80\x00"
