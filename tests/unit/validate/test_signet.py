"""A signet block needs its network's signature (BIP325)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_blocks import REGTEST, Made, coinbase, commit, mine, pay, vector
from oracle.block import Reader, merkle, read_transaction

from bitcoin_sprint.chains import Network, network
from bitcoin_sprint.errors import BlockRefused
from bitcoin_sprint.validate import prove_block
from bitcoin_sprint.validate.signet import parse_multisig, signature_hash, split_solution

N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
GX = 0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798
KEY_1 = bytes([2]) + GX.to_bytes(32, "big")
KEY_2 = bytes.fromhex("02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5")
ONE_OF_TWO = b"\x51" + vector(KEY_1) + vector(KEY_2) + b"\x52\xae"
TWO_OF_TWO = b"\x52" + vector(KEY_1) + vector(KEY_2) + b"\x52\xae"
MARK = bytes.fromhex("ecc7daa2")


def own_signet(challenge: bytes = ONE_OF_TWO) -> Network:
    """Regtest's easy proof of work with a challenge that this test can solve."""
    fields = {name: getattr(REGTEST, name) for name in REGTEST.__struct_fields__}
    return Network(**{**fields, "name": "own-signet", "signet_challenge": challenge})


def sign(digest: bytes, secret: int, hash_type: int = 1) -> bytes:
    """A signature by the secrets 1 or 2, with the nonce 1: of use in a test alone."""
    s = (int.from_bytes(digest, "big") + GX * secret) % N
    numbers = b""
    for number in (GX, s):
        data = number.to_bytes(number.bit_length() // 8 + 1, "big")
        numbers += b"\x02" + vector(data)
    return b"\x30" + vector(numbers) + bytes([hash_type])


def with_solution(block: Made, solution: bytes | None, tail: bytes = b"") -> Made:
    """The block with a solution pushed after the commitment in its coinbase."""
    first, *others = block.transactions
    value, script = first.outputs[-1]
    if solution is not None:
        data = MARK + solution
        push = vector(data) if len(data) < 0x4C else b"\x4c" + bytes([len(data)]) + data
        script += push + tail
    first = replace(first, outputs=(*first.outputs[:-1], (value, script)))
    return replace(block, transactions=[first, *others])


def unsigned() -> Made:
    others = [pay(1), pay(2)]
    return Made([commit(coinbase(9), others), *others])


def digest_of(block: Made, challenge: bytes, hash_type: int = 1) -> bytes:
    marked = with_solution(block, b"").transactions
    root, _ = merkle([tx.txid for tx in marked])
    data = block.version.to_bytes(4, "little") + block.previous + root
    return signature_hash(data + block.time.to_bytes(4, "little"), challenge, hash_type)


def solution(*stack: bytes, witness: bytes = b"\x00") -> bytes:
    return vector(b"".join(vector(each) for each in stack)) + witness


def solved(hash_type: int = 1, secret: int = 1) -> Made:
    block = unsigned()
    signature = sign(digest_of(block, ONE_OF_TWO, hash_type), secret, hash_type)
    return with_solution(block, solution(b"", signature))


def refusal(block: Made, net: Network) -> tuple[str, bool]:
    with pytest.raises(BlockRefused) as caught:
        prove_block(block.raw, net)
    return caught.value.reason, caught.value.mutated


@pytest.mark.parametrize("secret", [1, 2])
@pytest.mark.parametrize("hash_type", [0x01, 0x02, 0x03, 0x81, 0x82, 0x83, 0x00, 0x42])
def test_a_signature_by_any_of_the_keys_solves_the_challenge(secret: int, hash_type: int) -> None:
    assert prove_block(solved(hash_type, secret).raw, own_signet()).height == 9


def test_two_of_two_wants_both_in_their_keys_order() -> None:
    net, block = own_signet(TWO_OF_TWO), unsigned()
    digest = digest_of(block, TWO_OF_TWO)
    one, two = sign(digest, 1), sign(digest, 2)
    assert prove_block(with_solution(block, solution(b"", one, two)).raw, net).height == 9
    for stack in ((two, one), (one, one), (one,), (two,)):
        spoiled = with_solution(block, solution(b"", *stack))
        assert refusal(spoiled, net) == ("bad-signet-blksig", False)


def test_a_block_without_solution_is_refused() -> None:
    assert refusal(unsigned(), own_signet()) == ("bad-signet-blksig", False)
    assert refusal(with_solution(unsigned(), b""), own_signet()) == ("bad-signet-blksig", False)
    assert refusal(Made([coinbase(9)]), own_signet()) == ("bad-signet-blksig", False)


def test_what_was_signed_cannot_be_changed() -> None:
    good = solved()
    changes: list[dict[str, object]] = [
        {"time": good.time + 1},
        {"version": good.version + 1},
        {"previous": b"\x01" * 32},
        {"transactions": [*good.transactions[:1], pay(1), pay(3)]},
    ]
    for change in changes:
        changed = replace(good, **change)  # type: ignore[arg-type]
        if "transactions" in change:
            first = changed.transactions[0]
            root = commit(coinbase(9), [pay(1), pay(3)]).outputs[-1][1]
            script = root + first.outputs[-1][1][38:]
            first = replace(first, outputs=(first.outputs[0], (0, script)))
            changed = replace(changed, transactions=[first, pay(1), pay(3)])
        assert refusal(changed, own_signet()) == ("bad-signet-blksig", False)


@pytest.mark.parametrize(
    "form",
    [
        lambda sig: solution(b"\x01", sig),
        lambda sig: solution(sig),
        lambda sig: solution(b"", b"", sig),
        lambda sig: solution(b"", sig, witness=b""),
        lambda sig: solution(b"", sig, witness=b"\x01\x00"),
        lambda sig: solution(b"", sig) + b"\x00",
        lambda sig: b"\xfd" + bytes([len(sig) + 2, 0]) + solution(b"", sig)[1:],
        lambda _: vector(b"\x00\x4c") + b"\x00",
        lambda sig: vector(b"\x61" + vector(sig)) + b"\x00",
        lambda sig: vector(b"\x00" + vector(sig) + b"\x75") + b"\x00",
        lambda _: b"\x50",
    ],
    ids=[
        "dummy not empty",
        "no dummy",
        "one too many",
        "no witness part",
        "a witness",
        "more bytes",
        "size not canonical",
        "push cut",
        "nop for dummy",
        "drop at the end",
        "script cut",
    ],
)
def test_only_the_plain_form_of_a_solution_is_accepted(form: Callable[[bytes], bytes]) -> None:
    block = unsigned()
    signature = sign(digest_of(block, ONE_OF_TWO), 1)
    assert refusal(with_solution(block, form(signature)), own_signet())[0] == "bad-signet-blksig"


def test_the_solution_stands_in_the_first_push_that_is_marked_and_has_more() -> None:
    commitment = b"\x6a\x24" + bytes(36)
    with_both = commitment + vector(MARK) + vector(MARK + b"one") + vector(MARK + b"two")
    kept = commitment + vector(MARK) + vector(MARK) + vector(MARK + b"two")
    assert split_solution(with_both) == (kept, b"one")
    assert split_solution(commitment) == (commitment, None)
    long_form = commitment + b"\x4d\x03\x00abc" + b"\x4c" + vector(MARK + b"x") + b"\x05cut"
    assert split_solution(long_form) == (commitment + vector(b"abc") + vector(MARK), b"x")


@pytest.mark.parametrize("script", [b"", b"\x51", b"\x51\xae", ONE_OF_TWO[:-1], b"\x53" * 3])
def test_other_challenges_are_not_understood(script: bytes) -> None:
    with pytest.raises(ValueError, match="multisig"):
        parse_multisig(script)


def test_real_signet_blocks_pass_and_fail_once_their_solution_is_touched(
    peer: Callable[[str], Path],
) -> None:
    """Ten of signet's first blocks stand in a functional test of Bitcoin Core."""
    text = next(peer("test-framework").rglob("feature_signet.py")).read_text()
    blocks = [bytes.fromhex(found) for found in re.findall(r"'([0-9a-f]{400,})'", text)]
    signet = network("signet")
    assert len(blocks) == 10
    for height, raw in enumerate(blocks, start=1):
        assert prove_block(raw, signet, height=height).height == height
    easy = own_signet(signet.signet_challenge or b"")
    header, coinbase_raw = blocks[0][:80], bytearray(blocks[0][81:])
    assert prove_block(mined_again(header, coinbase_raw), easy).height == 1
    coinbase_raw[coinbase_raw.index(MARK) + 20] ^= 1
    with pytest.raises(BlockRefused, match="bad-signet-blksig"):
        prove_block(mined_again(header, coinbase_raw), easy)


def mined_again(header: bytes, coinbase_raw: bytes | bytearray) -> bytes:
    """A block of this coinbase alone; its signature covers neither target nor nonce."""
    raw = bytes(coinbase_raw)
    time = int.from_bytes(header[68:72], "little")
    return mine(header[4:36], read_transaction(Reader(raw)).txid, time) + b"\x01" + raw
