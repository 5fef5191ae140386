"""The C proof and its plain twin say the same of any block, well formed or not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_blocks import NULL_OUTPOINT, REGTEST, Made, Tx, coinbase, commit, mine, size
from oracle import block as twin

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import BlockRefused, TransactionRefused
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate import prove_block, prove_transaction

MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))

scripts = st.one_of(st.binary(max_size=80), st.sampled_from([b"", bytes(253), bytes(600)]))
outpoints = st.one_of(st.binary(min_size=36, max_size=36), st.just(NULL_OUTPOINT))
values = st.one_of(
    st.integers(0, 10**9),
    st.sampled_from([-1, 21 * 10**14, 21 * 10**14 + 1, 2**63 - 1, -(2**63)]),
)
stacks = st.lists(scripts, max_size=3)


@st.composite
def transactions(draw: st.DrawFn) -> Tx:
    count = draw(st.sampled_from([1, 1, 1, 2, 3]))
    inputs = draw(st.lists(st.tuples(outpoints, scripts), min_size=count, max_size=count))
    outputs = draw(st.lists(st.tuples(values, scripts), max_size=3))
    witnesses = draw(st.one_of(st.just(()), st.lists(stacks, min_size=count, max_size=count)))
    return Tx(inputs, outputs, witnesses, draw(st.integers(-(2**31), 2**31 - 1)))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    others = draw(st.lists(transactions(), max_size=9))
    first = draw(st.one_of(transactions(), st.integers(0, 300).map(coinbase)))
    if draw(st.booleans()):
        first = commit(first, others)
    whole = [first, *others]
    if draw(st.booleans()):
        whole = [replace(tx, witnesses=()) if tx.outputs else tx for tx in whole]
    mined_for = list(whole)
    if draw(st.booleans()):
        whole += whole[-draw(st.integers(1, len(whole))) :]
    version = draw(st.sampled_from([1, 2, 0x20000000, -1]))
    return Made(whole, version=version, mined_for=mined_for).raw


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(blocks()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(80, len(raw) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                raw[at] = draw(st.sampled_from([0, 1, 0xFD, 0xFE, 0xFF]))
            case 2:
                del raw[at : at + draw(st.integers(1, 40))]
            case _:
                raw[at:at] = draw(st.binary(min_size=1, max_size=9))
        if len(raw) <= 80:
            break
    return bytes(raw)


def network_with(segwit_height: int) -> Network:
    fields = {name: getattr(REGTEST, name) for name in REGTEST.__struct_fields__}
    return Network(**{**fields, "segwit_height": segwit_height, "bip34_height": 50})


def verdict_of_c(raw: bytes, network: Network, height: int | None) -> object:
    try:
        proved = prove_block(raw, network, height=height)
    except BlockRefused as refused:
        return refused.reason, refused.mutated
    return (
        [bytes(txid) for txid in proved.txids],
        proved.offsets.tolist(),
        proved.weight,
        proved.has_witness,
    )


def verdict_of_twin(raw: bytes, network: Network, height: int | None) -> object:
    rules = twin.Rules(
        height=height,
        bip34_height=network.bip34_height,
        segwit_height=network.segwit_height,
    )
    try:
        judged = twin.judge(raw, rules)
    except twin.Refused as refused:
        return refused.reason, refused.mutated
    return judged.txids, judged.offsets, judged.weight, judged.has_witness


@MANY
@given(damaged(), st.sampled_from([0, 100]), st.one_of(st.none(), st.integers(0, 300)))
def test_verdicts_agree(raw: bytes, segwit_height: int, height: int | None) -> None:
    network = network_with(segwit_height)
    assert verdict_of_c(raw, network, height) == verdict_of_twin(raw, network, height)


@MANY
@given(st.lists(transactions(), max_size=3), st.binary(max_size=200))
def test_garbage_is_judged_alike(whole: list[Tx], garbage: bytes) -> None:
    raw = mine(bytes(32)) + size(len(whole)) + b"".join(tx.raw for tx in whole) + garbage
    assert verdict_of_c(raw, REGTEST, None) == verdict_of_twin(raw, REGTEST, None)


def feed_in_pieces(raw: bytes, cuts: list[int]) -> int:
    """The code that the resumable parser ends with when the block comes in pieces."""
    block = ffi.new("sp_block *")
    rules = ffi.new("sp_block_rules *", [4_000_000, 4_000_000, 21 * 10**14, -1, 50, 0, 0])
    source = ffi.from_buffer("uint8_t[]", raw)
    trailer = None
    assert lib.sp_block_begin(block, rules, source, len(raw)) == lib.SP_PROVED
    code = lib.SP_MORE
    for have in [*sorted(cuts), len(raw)]:
        code = lib.sp_block_feed(block, min(have, len(raw)))
        if code == lib.SP_TRAILER_WANTED:
            trailer = ffi.new(
                "uint8_t[]", lib.sp_block_trailer_bytes(len(raw), block.facts.tx_count)
            )
            lib.sp_block_set_trailer(block, trailer)
            code = lib.sp_block_feed(block, min(have, len(raw)))
        if code != lib.SP_MORE:
            break
    return int(code)


@MANY
@given(damaged(), st.lists(st.integers(0, 3_000), max_size=30))
def test_a_block_that_comes_in_pieces_ends_as_one_that_comes_whole(
    raw: bytes, cuts: list[int]
) -> None:
    assert feed_in_pieces(raw, cuts) == feed_in_pieces(raw, [])


@MANY
@given(transactions(), st.integers(0, 3), st.data())
def test_lone_transactions_are_named_alike(tx: Tx, flips: int, data: st.DataObject) -> None:
    raw = bytearray(tx.raw)
    for _ in range(flips):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found: object = prove_transaction(bytes(raw))
    except TransactionRefused as refused:
        found = refused.reason
    assert found == name_by_twin(bytes(raw))


def name_by_twin(raw: bytes) -> object:
    reader = twin.Reader(raw)
    try:
        read = twin.read_transaction(reader)
    except twin.Refused as refused:
        return refused.reason
    points = [point for point, _ in read.inputs]
    fault = twin.fault(read, twin.Rules())
    late = ("bad-cb-length", "bad-txns-prevout-null")
    if reader.left:
        fault = "trailing-bytes"
    elif len(set(points)) < len(points) and (fault is None or fault in late):
        fault = "bad-txns-inputs-duplicate"
    return fault or (read.txid, read.wtxid)
