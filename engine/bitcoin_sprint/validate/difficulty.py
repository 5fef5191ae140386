"""Which target the next block of a chain must have.

One function for every network; what differs between them is data (``chains.Retarget``). It sees the
chain through ``Ancestry`` and thus works on any store of headers.
"""

from __future__ import annotations

from typing import Protocol

from bitcoin_sprint.chains import Network
from bitcoin_sprint.validate.target import decode_bits, encode_bits


class Ancestry(Protocol):
    """A chain of headers that ends with the parent of the block in question."""

    @property
    def height(self) -> int:
        """Of the last block."""

    @property
    def time(self) -> int: ...
    @property
    def bits(self) -> int: ...
    def time_at(self, height: int) -> int: ...
    def bits_at(self, height: int) -> int: ...
    def last_real_bits(self, interval: int, limit_bits: int) -> int:
        """Bits of the last block whose bits are not ``limit_bits`` or whose height is a multiple of
        ``interval``; of the chain's first block where there is none."""


def required_bits(chain: Ancestry, network: Network, time: int) -> int:
    """The compact target that a block on top of ``chain``, dated ``time``, must carry."""
    rule = network.retarget
    limit_bits = encode_bits(network.pow_limit)
    if (chain.height + 1) % rule.interval == 0:
        return _retarget(chain, network) if rule.retargets else chain.bits
    if not rule.allows_minimum_difficulty:
        return chain.bits
    if time > chain.time + 2 * rule.spacing_seconds:
        return limit_bits
    return chain.last_real_bits(rule.interval, limit_bits)


def period_start(height: int, network: Network) -> int:
    """Height of the block from whose time the period that ends at ``height`` is measured."""
    rule = network.retarget
    if rule.spans_whole_period and height + 1 != rule.interval:
        return height - rule.interval
    return height - (rule.interval - 1)


def _retarget(chain: Ancestry, network: Network) -> int:
    rule = network.retarget
    taken = chain.time - chain.time_at(period_start(chain.height, network))
    taken = max(rule.timespan_seconds // 4, min(taken, rule.timespan_seconds * 4))
    bits = chain.bits
    if rule.keeps_real_difficulty:
        bits = chain.bits_at(chain.height - (rule.interval - 1))
    target = decode_bits(bits)
    if target is None:
        raise ValueError(f"a chain with the target 0x{bits:08x} was accepted")
    # Litecoin halves a target before the product where it would not fit 256 bits; bits lost there
    # are lost on purpose. Bitcoin's limits leave room.
    shift = 0
    if rule.spans_whole_period and target.bit_length() > network.pow_limit.bit_length() - 1:
        shift = 1
    target = ((target >> shift) * taken // rule.timespan_seconds) << shift
    return encode_bits(min(target, network.pow_limit))
