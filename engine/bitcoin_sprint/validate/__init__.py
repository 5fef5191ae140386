"""What can be proved of headers, blocks and transactions without scripts and coins."""

from __future__ import annotations

from bitcoin_sprint.validate.block import SHA256_VARIANT, ProvedBlock, prove_block
from bitcoin_sprint.validate.header import HeaderFields, check_header_alone, parse_header
from bitcoin_sprint.validate.header_chain import HeaderChain, HeaderEntry
from bitcoin_sprint.validate.target import decode_bits, encode_bits, work_of
from bitcoin_sprint.validate.transaction import is_coinbase, prove_transaction

__all__ = [
    "SHA256_VARIANT",
    "HeaderChain",
    "HeaderEntry",
    "HeaderFields",
    "ProvedBlock",
    "check_header_alone",
    "decode_bits",
    "encode_bits",
    "is_coinbase",
    "parse_header",
    "prove_block",
    "prove_transaction",
    "work_of",
]
