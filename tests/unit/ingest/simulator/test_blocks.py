"""Blocks are put together as consensus asks, checked on a real block and on the rules' edges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.simulator import blocks as sim
from bitcoin_sprint.ingest.simulator.transactions import CoinKind, sha256d

LOCK = (CoinKind.BARE, b"", b"\x51")


def template(height: int) -> sim.Template:
    return sim.Template(bytes(32), height, 1_700_000_000, b"words")


@pytest.mark.parametrize(
    ("height", "value"),
    [(1, 5_000_000_000), (149, 5_000_000_000), (150, 2_500_000_000), (150 * 64, 0)],
)
def test_the_subsidy_halves_every_150_blocks(height: int, value: int) -> None:
    assert sim.subsidy(height) == value


@pytest.mark.parametrize(
    ("height", "script"),
    [(1, "51"), (16, "60"), (17, "0111"), (127, "017f"), (128, "028000"), (40_000, "03409c00")],
)
def test_the_height_is_pushed_as_bip34_wants(height: int, script: str) -> None:
    assert sim.script_number(height).hex() == script


def test_a_header_meets_the_target_and_hashes_to_the_block() -> None:
    regtest = network("regtest")
    block = sim.mine(regtest, template(1), [], LOCK)
    assert int.from_bytes(block.hash, "little") <= regtest.pow_limit
    assert block.hash == sha256d(block.raw[:80])
    assert block.header[36:68] == block.coinbase.txid
    assert block.weight == (80 + 1) * 4 + block.coinbase.weight


def test_overhead_is_what_a_block_without_transactions_weighs() -> None:
    block = sim.mine(network("regtest"), template(200), [], LOCK)
    assert sim.overhead(template(200), LOCK, 0) == block.weight


@pytest.mark.skipif(not os.environ.get("SPRINT_TEST_DATA"), reason="SPRINT_TEST_DATA is not set")
def test_the_merkle_root_of_a_real_block_comes_out() -> None:
    raw = (Path(os.environ["SPRINT_TEST_DATA"]) / "bitcoin" / "block1.raw").read_bytes()
    assert sim.merkle_root([sha256d(raw[81:])]) == raw[36:68]


def test_an_odd_layer_repeats_its_last_hash() -> None:
    a, b, c = (bytes([each]) * 32 for each in b"abc")
    expected = sha256d(sha256d(a + b) + sha256d(c + c))
    assert sim.merkle_root([a, b, c]) == expected
