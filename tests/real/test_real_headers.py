"""Recorded headers keep every rule; what is moved out of its place does not."""

from __future__ import annotations

import csv
import gzip
import io
import struct
from functools import cache
from pathlib import Path

import pytest
import recorded
from oracle.block import push_of_height, sha256d
from recorded import needs_data

from bitcoin_sprint.chains import Checkpoint, Network, network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.validate import HeaderChain, decode_bits, encode_bits, parse_header

pytestmark = needs_data
NOW = 1_900_000_000.0


def with_checkpoint(net: Network, checkpoint: Checkpoint) -> Network:
    fields = {name: getattr(net, name) for name in net.__struct_fields__}
    return Network(**{**fields, "checkpoint": checkpoint})


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [("main", "headers_mainnet.zst", 10_237), ("signet", "headers_signet.zst", 2_016)],
)
def test_recorded_headers_make_a_chain_that_comes_back(
    name: str, file: str, count: int, tmp_path: Path
) -> None:
    headers = recorded.headers(file)
    assert len(headers) == count
    net = network(name)
    with HeaderChain.open(net, tmp_path / "headers") as chain:
        for height, header in enumerate(headers):
            assert chain.add(header, NOW).height == height
        best = chain.best
        for i, header in enumerate(chain.headers_after([net.genesis_hash])):
            assert header == headers[i + 1]
    with HeaderChain.open(net, tmp_path / "headers") as chain:
        assert chain.best == best
        assert len(chain) == count


def test_headers_of_recorded_blocks_follow_each_other() -> None:
    chain = HeaderChain.open(network("main"))
    for height, raw in enumerate(recorded.framed("first-100k-blocks.dat")):
        assert chain.add(raw[:80], NOW).height == height


@cache
def modern_headers() -> list[bytes]:
    """2,633 mainnet headers from height 586,657 on."""
    text = gzip.decompress(
        recorded.path("bitcoin/headers_586657_589289_mainnet.csv.gz").read_bytes()
    ).decode()
    return [
        struct.pack(
            "<I32s32sIII",
            int(row["version"], 16),
            bytes.fromhex(row["prev_block"])[::-1],
            bytes.fromhex(row["merkle_root"])[::-1],
            int(row["timestamp"], 16),
            int(row["bits"], 16),
            int(row["nonce"], 16),
        )
        for row in csv.DictReader(io.StringIO(text))
    ]


FIRST = 586_657
RETARGET = 588_672


def period_start_time() -> int:
    """The time of block 586,656, which the recording just misses: the one second from which the
    recorded retarget follows."""
    headers = modern_headers()
    last = parse_header(headers[RETARGET - 1 - FIRST])
    expected = parse_header(headers[RETARGET - FIRST]).bits
    target = decode_bits(last.bits)
    assert target is not None
    first = parse_header(headers[0]).time
    fitting = [
        time
        for time in range(first - 7_200, first + 7_200)
        if encode_bits(target * (last.time - time) // 1_209_600) == expected
    ]
    assert len(fitting) == 1
    return fitting[0]


def modern_chain() -> HeaderChain:
    headers = modern_headers()
    bits = parse_header(headers[0]).bits
    checkpoint = Checkpoint(
        height=FIRST,
        header=headers[0],
        work=1 << 90,
        recent_times=(),
        period_start_time=period_start_time(),
        period_start_bits=bits,
        real_bits=bits,
    )
    return HeaderChain.open(with_checkpoint(network("main"), checkpoint))


def test_modern_headers_pass_across_a_retarget() -> None:
    chain = modern_chain()
    for height, header in enumerate(modern_headers(), start=FIRST):
        assert chain.add(header, NOW).height == height
    before = parse_header(chain.ancestor(chain.best.hash, RETARGET - 1).header).bits
    after = parse_header(chain.ancestor(chain.best.hash, RETARGET).header).bits
    assert before != after


def test_any_bit_flipped_in_a_modern_header_is_high_hash() -> None:
    chain = modern_chain()
    header = modern_headers()[1]
    for bit in range(640):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HeaderRefused, match="high-hash"):
            chain.add(bytes(flipped), NOW)


def test_a_real_header_under_another_rule_is_refused() -> None:
    chain = modern_chain()
    headers = modern_headers()
    with pytest.raises(HeaderRefused, match="prev-unknown"):
        chain.add(headers[2], NOW)
    with pytest.raises(HeaderRefused, match="time-too-new"):
        chain.add(headers[1], parse_header(headers[1]).time - 7_201)
    wrong = HeaderChain.open(
        with_checkpoint(
            network("testnet4"),
            Checkpoint(
                height=RETARGET - 1,
                header=headers[RETARGET - 1 - FIRST],
                work=0,
                recent_times=(),
                period_start_time=parse_header(headers[RETARGET - 1 - FIRST]).time - 1_000_000,
                period_start_bits=parse_header(headers[0]).bits,
                real_bits=parse_header(headers[0]).bits,
            ),
        )
    )
    with pytest.raises(HeaderRefused, match="bad-diffbits"):
        wrong.add(headers[RETARGET - FIRST], NOW)


def test_an_alternative_mainnet_crosses_its_first_retarget_fourfold() -> None:
    """2,016 blocks that Bitcoin Core's own test mined at difficulty 1, twice as fast and more."""
    data = recorded.load("vectors/core_mainnet_alt.json")
    main = network("main")
    script = bytes.fromhex("76a914eadbac7f36c37e39361168b7aaee3cb24a25312d88ac")
    chain = HeaderChain.open(main)
    for height, (time, nonce) in enumerate(
        zip(data["timestamps"], data["nonces"], strict=True), start=1
    ):
        signature = push_of_height(height) + (b"\x00" if height <= 16 else b"")
        coinbase = (
            struct.pack("<i", 2)
            + b"\x01"
            + bytes(32)
            + b"\xff" * 4
            + bytes([len(signature)])
            + signature
            + b"\xff" * 4
            + b"\x01"
            + struct.pack("<q", 5_000_000_000)
            + bytes([len(script)])
            + script
            + bytes(4)
        )
        bits = 0x1D00FFFF if height < 2_016 else 0x1C3FFFC0
        header = struct.pack(
            "<i32s32sIII", 0x20000000, chain.best.hash, sha256d(coinbase), time, bits, nonce
        )
        assert chain.required_bits(chain.best.hash, time) == bits
        assert chain.add(header, NOW).height == height


def test_recorded_reorgs_switch_to_more_work() -> None:
    main = network("main")
    chain = HeaderChain.open(main)
    for raw in recorded.framed("btcd_blk_0_to_4.dat.bz2"):
        fourth = chain.add(raw[:80], NOW)
    assert fourth.height == 4
    heights = []
    for number in "345":
        (raw,) = recorded.framed(f"btcd_blk_{number}A.dat.bz2")
        side = chain.add(raw[:80], NOW)
        heights.append(side.height)
        if side.height < 5:
            assert chain.best.hash == fourth.hash
    assert heights == [3, 4, 5]
    assert chain.best.hash == side.hash
    disconnect, connect = chain.path(fourth.hash, side.hash)
    assert [entry.height for entry in disconnect] == [4, 3]
    assert [entry.height for entry in connect] == [3, 4, 5]


def test_a_dump_of_the_same_shape_does_too() -> None:
    chain = HeaderChain.open(network("main"))
    for raw in recorded.annotated_blocks("btcd_reorgtest.hex"):
        entry = chain.add(raw[:80], NOW)
    assert chain.best.hash == entry.hash
    assert chain.best.height == 5
    assert len(chain) == 8


def test_regtest_reorgs_of_another_implementation_switch_too() -> None:
    regtest = network("regtest")
    first, second = recorded.load("bitcoin/floresta_test_reorg.json")
    chain = HeaderChain.open(regtest)
    tips = []
    for part in (first, second):
        for text in part:
            entry = chain.add(bytes.fromhex(text)[:80], NOW)
        tips.append(entry)
    assert chain.best.hash == max(tips, key=lambda entry: entry.work).hash
    assert tips[0].hash != tips[1].hash


def test_litecoin_headers_make_a_chain() -> None:
    data = recorded.read("litecoin/ltcd_blocks1-256.bz2")
    chain = HeaderChain.open(network("litecoin-main"))
    at = 0
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        entry = chain.add(data[at + 8 : at + 88], NOW)
        at += 8 + length
    assert entry.height == len(chain) - 1 >= 255
