"""Every recorded block is proved, and none of it survives a flipped bit."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from types import ModuleType

import pytest
import recorded
from oracle import block as twin
from recorded import BLOCKS, FRAMED, Recorded, needs_data

from bitcoin_sprint.chains import network
from bitcoin_sprint.errors import BlockRefused
from bitcoin_sprint.validate import prove_block

pytestmark = needs_data
FLIPS = 1_000

PARSE_FAILURES = {
    "truncated",
    "trailing-bytes",
    "non-canonical-size",
    "size-too-large",
    "superfluous-witness",
    "unknown-tx-flags",
}


def named(each: Recorded) -> str:
    return each.file


@cache
def raw_of(each: Recorded) -> bytes:
    return recorded.block(each)


@pytest.mark.parametrize("each", BLOCKS, ids=named)
@pytest.mark.parametrize("height_is_given", [False, True], ids=["alone", "on a chain"])
def test_a_recorded_block_is_proved(each: Recorded, height_is_given: bool) -> None:
    raw = raw_of(each)
    net = network(each.network)
    proved = prove_block(raw, net, height=each.height if height_is_given else None)
    assert proved.hash[::-1].hex() == each.hash
    assert proved.tx_count == each.tx_count
    transactions = [
        twin.read_transaction(twin.Reader(raw, offset)) for offset in proved.offsets.tolist()
    ]
    txids = [tx.txid for tx in transactions]
    assert [bytes(txid) for txid in proved.txids] == txids
    assert twin.merkle(txids) == (raw[36:68], False)
    assert proved.weight == 4 * len(raw) - 3 * sum(
        len(tx.total) - len(tx.base) for tx in transactions
    )
    version = int.from_bytes(raw[:4], "little")
    claims_height = version >= 2 and each.height != 227_835
    if each.height is not None and (height_is_given or claims_height):
        assert proved.height == each.height


@pytest.mark.parametrize("each", BLOCKS, ids=named)
def test_bitcoin_core_finds_the_same_ids(each: Recorded, pbk: ModuleType) -> None:
    raw = raw_of(each)
    proved = prove_block(raw, network(each.network))
    block = pbk.Block(raw)
    assert bytes(block.block_hash) == proved.hash
    assert [bytes(tx.txid) for tx in block.transactions] == [bytes(each) for each in proved.txids]


@pytest.mark.parametrize("each", [each for each in BLOCKS if each.tx_count < 130], ids=named)
@pytest.mark.usefixtures("btclib")
def test_btclib_finds_the_same_ids(each: Recorded) -> None:
    from btclib.block.block import Block

    raw = raw_of(each)
    block = Block.parse(raw, check_validity=False)
    proved = prove_block(raw, network(each.network))
    assert [tx.id[::-1] for tx in block.transactions] == [bytes(each) for each in proved.txids]


@pytest.mark.parametrize("name", FRAMED)
def test_a_run_of_blocks_is_proved(name: str, pbk: ModuleType) -> None:
    main = network("main")
    blocks = list(recorded.framed(name))
    assert len(blocks) == FRAMED[name]
    for raw in blocks:
        proved = prove_block(raw, main)
        ids = [bytes(tx.txid) for tx in pbk.Block(raw).transactions]
        assert [bytes(each) for each in proved.txids] == ids


def test_runs_are_proved_at_their_heights_too() -> None:
    main = network("main")
    for height, raw in enumerate(recorded.framed("first-100k-blocks.dat")):
        assert prove_block(raw, main, height=height).height == height
    (block,) = recorded.framed("btcd_277647.dat.bz2")
    assert prove_block(block, main, height=277_647).height == 277_647


def test_regtest_blocks_of_another_implementation_are_proved() -> None:
    regtest = network("regtest")
    lines = recorded.path("bitcoin/floresta_blocks.txt").read_text().split()
    chains = [*recorded.load("bitcoin/floresta_test_reorg.json"), lines]
    count = 0
    for chain in chains:
        for text in chain:
            prove_block(bytes.fromhex(text), regtest)
            count += 1
    assert count == 10 + 11 + 151


def test_the_annotated_dump_of_a_reorg_is_proved() -> None:
    blocks = recorded.annotated_blocks("btcd_reorgtest.hex")
    hashes = {prove_block(raw, network("main")).hash for raw in blocks}
    assert len(hashes) == len(blocks) == 8


LITECOIN = {
    "block878439.raw": ("litecoin-main", 878_439, 3_808, 0),
    "block900000.raw": ("litecoin-main", 900_000, 5, 0),
    "block2265985_mweb.raw": ("litecoin-main", 2_265_985, 58, 5_965),
    "testnet4Block1821752.dat": ("litecoin-testnet4", 1_821_752, 3, 0),
    "testnet4Block2215584.dat": ("litecoin-testnet4", 2_215_584, 5, 2_103),
    "testnet4Block2319633.dat": ("litecoin-testnet4", 2_319_633, 2, 171),
    "testnet4Block2321749.dat": ("litecoin-testnet4", 2_321_749, 4, 171),
}


@pytest.mark.parametrize("name", LITECOIN)
def test_litecoin_blocks_are_proved_with_their_extension_blocks(name: str) -> None:
    net, height, tx_count, extension_bytes = LITECOIN[name]
    raw = recorded.read(f"litecoin/{name}")
    proved = prove_block(raw, network(net), height=height)
    assert (proved.height, proved.tx_count) == (height, tx_count)
    assert proved.extension_bytes == extension_bytes
    if extension_bytes:
        with pytest.raises(BlockRefused, match=r"truncated|bad-extension"):
            prove_block(raw[:-extension_bytes], network(net))
        with pytest.raises(BlockRefused, match="unknown-tx-flags"):
            prove_block(raw, network_without_extension(net))


def network_without_extension(name: str) -> object:
    net = network(name)
    fields = {field: getattr(net, field) for field in net.__struct_fields__}
    return type(net)(**{**fields, "has_extension_block": False})


# --- flipped bits -----------------------------------------------------------------------------

HEADER, FORM, BODY, WITNESS = range(4)


class Map(twin.Reader):
    """Reads a block and notes of every byte what it is."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw, 80)
        self.kinds = bytearray(len(raw))
        self.kind = FORM
        self._walk()

    def take(self, count: int) -> bytes:
        self.kinds[self.at : self.at + count] = bytes([self.kind]) * count
        return super().take(count)

    def take_as(self, kind: int, count: int) -> bytes:
        before, self.kind = self.kind, kind
        taken = self.take(count)
        self.kind = before
        return taken

    def _walk(self) -> None:
        for _ in range(self.size()):
            self._walk_transaction()
        assert self.left == 0

    def _walk_transaction(self) -> None:
        self.take_as(BODY, 4)
        inputs = self.size()
        has_witness = inputs == 0
        if has_witness:
            self.take(1)
            inputs = self.size()
        for _ in range(inputs):
            self.take_as(BODY, 36)
            self.take_as(BODY, self.size())
            self.take_as(BODY, 4)
        for _ in range(self.size()):
            self.take_as(BODY, 8)
            self.take_as(BODY, self.size())
        for _ in range(inputs if has_witness else 0):
            for _ in range(self.size()):
                self.take_as(WITNESS, self.size())
        self.take_as(BODY, 4)


@cache
def kinds_of(each: Recorded) -> bytes:
    return bytes(Map(raw_of(each)).kinds)


def flips() -> list[tuple[Recorded, int, int]]:
    """Seeded bits to flip: half anywhere, so mostly in large blocks' bodies, half in a block and a
    kind of byte drawn first, so that counts, lengths, flags and headers get their share."""
    chosen: list[tuple[Recorded, int, int]] = []
    dice = random.Random(20_090_103)
    sizes = [len(raw_of(each)) for each in BLOCKS]
    while len(chosen) < FLIPS // 2:
        (each,) = dice.choices(BLOCKS, sizes)
        chosen.append((each, dice.randrange(len(raw_of(each))), dice.randrange(8)))
    while len(chosen) < FLIPS:
        each = dice.choice(BLOCKS)
        kinds = kinds_of(each)
        kind = dice.choice([HEADER, FORM, BODY, WITNESS])
        if kind == HEADER:
            at = dice.randrange(80)
        else:
            places = [at for at in range(80, len(kinds)) if kinds[at] == kind]
            if not places:
                continue
            at = dice.choice(places)
        chosen.append((each, at, dice.randrange(8)))
    return chosen


def expected_reasons(each: Recorded, at: int) -> set[str]:
    """What a flip at this byte may be called, from where it stands alone."""
    if at < 80:
        return {"high-hash"}
    match kinds_of(each)[at]:
        case 2:  # BODY
            return {"bad-txnmrklroot"}
        case 3:  # WITNESS
            return {"bad-witness-merkle-match"}
    # A length, a count, the marker or the flag: the bytes after it are read as something else. If
    # they still read as a block, then as one with another body or with other witnesses.
    return PARSE_FAILURES | {
        "bad-txnmrklroot",
        "bad-witness-merkle-match",
        "bad-witness-nonce-size",
    }


@pytest.mark.timeout(300)
def test_a_thousand_flipped_bits_are_refused_for_the_right_reason() -> None:
    seen: Counter[str] = Counter()
    for each, at, bit in flips():
        flipped = bytearray(raw_of(each))
        flipped[at] ^= 1 << bit
        with pytest.raises(BlockRefused) as caught:
            prove_block(bytes(flipped), network(each.network), height=each.height)
        reason = caught.value.reason
        where = f"{each.file} byte {at} bit {bit}"
        assert caught.value.mutated, where
        assert reason in expected_reasons(each, at), f"{where}: {reason}"
        if at >= 80 and kinds_of(each)[at] == FORM:
            assert reason == reason_of_twin(bytes(flipped), each), where
        seen[reason] += 1
    assert seen.total() == FLIPS
    assert {"high-hash", "bad-txnmrklroot", "bad-witness-merkle-match", "truncated"} <= set(seen)


def reason_of_twin(raw: bytes, each: Recorded) -> str:
    net = network(each.network)
    rules = twin.Rules(
        height=each.height, bip34_height=net.bip34_height, segwit_height=net.segwit_height
    )
    with pytest.raises(twin.Refused) as caught:
        twin.judge(raw, rules)
    return caught.value.reason


def test_bitcoin_core_refuses_what_the_header_covers_and_a_bit_was_flipped_in(
    pbk: ModuleType,
) -> None:
    """Its CheckBlock sees proof of work, form and merkle root, not the witnesses."""
    for each, at, bit in flips()[-80:]:
        if at >= 80 and kinds_of(each)[at] == WITNESS:
            continue
        flipped = bytearray(raw_of(each))
        flipped[at] ^= 1 << bit
        kind = pbk.ChainType.MAINNET if each.network == "main" else pbk.ChainType.TESTNET
        params = pbk.ChainParameters(kind)
        try:
            block = pbk.Block(bytes(flipped))
        except RuntimeError:
            continue
        with pytest.raises(BlockRefused) as caught:
            prove_block(bytes(flipped), network(each.network), height=each.height)
        if caught.value.reason in ("bad-witness-merkle-match", "bad-witness-nonce-size"):
            continue
        state = block.check(params.consensus_params, pbk.BlockCheckFlags.ALL)
        assert state.validation_mode != pbk.ValidationMode.VALID
