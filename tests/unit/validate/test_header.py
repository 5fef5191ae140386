"""A header on its own is held to its own target."""

from __future__ import annotations

import pytest
from made_blocks import REGTEST, mine

from bitcoin_sprint.chains import NETWORKS, network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.validate import check_header_alone, parse_header


@pytest.mark.parametrize("name", NETWORKS)
def test_every_genesis_header_passes(name: str) -> None:
    net = network(name)
    assert check_header_alone(net.genesis, net) == net.genesis_hash


def test_fields_are_read_in_their_order() -> None:
    header = mine(b"p" * 32, b"m" * 32, time=1234567890, version=-5)
    fields = parse_header(header + b"more")
    assert fields[:5] == (-5, b"p" * 32, b"m" * 32, 1234567890, 0x207FFFFF)


def test_any_flipped_bit_of_a_hard_header_is_high_hash() -> None:
    main = network("main")
    for bit in range(640):
        header = bytearray(main.genesis)
        header[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HeaderRefused, match="high-hash"):
            check_header_alone(bytes(header), main)


def test_a_short_header_is_truncated() -> None:
    with pytest.raises(HeaderRefused, match="truncated"):
        check_header_alone(REGTEST.genesis[:79], REGTEST)
