"""The proof of a lone transaction: well formed, sane, and named."""

from __future__ import annotations

from bitcoin_sprint.chains import Network
from bitcoin_sprint.chains.bitcoin import MAIN
from bitcoin_sprint.errors import TransactionRefused
from bitcoin_sprint.native import ffi, lib

_NO_OUTPOINT = bytes(32) + b"\xff" * 4


def is_coinbase(raw: bytes) -> bool:
    """Whether a proved transaction is a coinbase: one input, which spends nothing."""
    inputs = 6 if raw[4:6] == b"\0\1" else 4
    return raw[inputs : inputs + 37] == b"\1" + _NO_OUTPOINT


def prove_transaction(raw: bytes | memoryview, network: Network = MAIN) -> tuple[bytes, bytes]:
    """Parse one transaction that fills ``raw`` and check every context-free rule of Bitcoin Core.

    Returns (txid, wtxid), internal byte order. A coinbase passes: a node publishes those too.
    Raises TransactionRefused with Core's word for it. Signatures and coins are not looked at.
    """
    rules = ffi.new(
        "sp_tx_rules *",
        {
            "money_max": network.money_max,
            "weight_max": network.block_weight_max,
            "has_extension": network.has_extension_block,
        },
    )
    ids = bytearray(64)
    with memoryview(raw) as view, ffi.from_buffer("uint8_t[]", view) as source:
        out = ffi.from_buffer("uint8_t[]", ids)
        code = lib.sp_transaction_prove(source, len(view), rules, out, out + 32)
    if code != lib.SP_PROVED:
        raise TransactionRefused(ffi.string(lib.sp_refusal_word(code)).decode())
    return bytes(ids[:32]), bytes(ids[32:])
