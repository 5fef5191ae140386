"""The proof of a whole block: proof of work, merkle root, witness commitment.

The work is done in C (``native/block.h`` says exactly what is proved) with the GIL released; here
stand the rules it needs, and what the rest of the engine gets to see.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import BlockRefused, HeaderRefused, SprintError
from bitcoin_sprint.frames import BLOCK_FOOTER
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate.header import HEADER_BYTES, check_header_alone
from bitcoin_sprint.validate.signet import check_solution

if lib.sp_sha256_name() == ffi.NULL:
    raise SprintError("SHA-256 fails its self-test on this processor; no block can be proved")

SHA256_VARIANT: Final[str] = ffi.string(lib.sp_sha256_name()).decode()
"""Which implementation of SHA-256 hashes streams: ``sha-ni`` or ``portable``."""

Buffer = bytes | memoryview
"""What a raw block comes in."""


class ProvedBlock:
    """A block that passed. ``raw`` is the caller's buffer, not a copy; it must stay unchanged."""

    __slots__ = (
        "__dict__",
        "coinbase_span",
        "extension_bytes",
        "has_witness",
        "hash",
        "height",
        "raw",
        "trailer",
        "tx_count",
        "weight",
    )

    def __init__(
        self,
        raw: bytes | memoryview,
        block_hash: bytes,
        trailer: memoryview,
        facts: Any,
        height: int | None,
    ) -> None:
        self.raw = raw
        self.hash = block_hash
        """Internal byte order."""
        self.trailer = trailer
        """What follows the raw block in a BLOCK frame's payload (``frames.BLOCK_FOOTER``)."""
        self.tx_count: int = facts.tx_count
        self.weight: int = facts.weight
        self.has_witness = bool(facts.has_witness)
        self.extension_bytes: int = facts.extension_bytes
        """Bytes after the last transaction (Litecoin's extension block), which are not proved."""
        self.coinbase_span = slice(
            facts.coinbase_offset, facts.coinbase_offset + facts.coinbase_bytes
        )
        self.height = height
        """The height asked for, else the coinbase's own claim (BIP34); None: not known."""

    @property
    def header(self) -> bytes:
        return bytes(self.raw[:HEADER_BYTES])

    @property
    def coinbase(self) -> bytes:
        """The first transaction as it is serialized."""
        return bytes(self.raw[self.coinbase_span])

    @property
    def bytes(self) -> int:
        """Length of the raw block."""
        return len(self.raw)

    @cached_property
    def txids(self) -> npt.NDArray[np.uint8]:
        """Transaction ids, shape (n, 32), internal byte order, in the trailer's own memory."""
        start = len(self.trailer) - BLOCK_FOOTER.size - 32 * self.tx_count
        flat = np.frombuffer(self.trailer, np.uint8, 32 * self.tx_count, start)
        return flat.reshape(self.tx_count, 32)

    @cached_property
    def offsets(self) -> npt.NDArray[np.uint32]:
        """Where in ``raw`` each transaction begins, shape (n,), in the trailer's own memory."""
        return np.frombuffer(self.trailer, "<u4", self.tx_count, -len(self.raw) % 8)

    @property
    def payload(self) -> list[Buffer]:
        """A BLOCK frame's payload, to be gathered."""
        return [self.raw, self.trailer]


def _rules(network: Network, height: int | None) -> Any:
    return ffi.new(
        "sp_block_rules *",
        {
            "bytes_max": network.block_bytes_max,
            "weight_max": network.block_weight_max,
            "money_max": network.money_max,
            "height": -1 if height is None else height,
            "bip34_height": network.bip34_height,
            "segwit_height": network.segwit_height,
            "has_extension": network.has_extension_block,
        },
    )


def _refused(code: int, facts: Any) -> BlockRefused:
    detail = f"transaction {facts.refused_transaction}, byte {facts.refused_position}"
    word: str = ffi.string(lib.sp_refusal_word(code)).decode()
    return BlockRefused(word, detail, mutated=bool(facts.mutated))


def _claimed_height(header: bytes | memoryview, facts: Any) -> int | None:
    """The coinbase's height. Version 1 never had one: what stands there is something else."""
    version = int.from_bytes(header[:4], "little", signed=True)
    claimed: int = facts.coinbase_height
    return claimed if version >= 2 and claimed >= 0 else None


def prove_block(
    raw: bytes | memoryview, network: Network, *, height: int | None = None
) -> ProvedBlock:
    """Prove one whole block: header, body, witnesses.

    ``raw`` is the serialized block, contiguous, and must not change while the proof runs or the
    result lives. ``height`` is what the header chain says; without it the coinbase's claim decides
    which rules are in force, and the claim itself is not checked.

    Raises BlockRefused with Bitcoin Core's word for it; ``mutated`` says that the hash must not be
    condemned with this copy. Safe to call from several threads.
    """
    try:
        block_hash = check_header_alone(raw, network)
    except HeaderRefused as refused:
        # A bad header is nobody's hash: nothing is condemned by it.
        raise BlockRefused(refused.reason, str(refused), mutated=True) from None
    block = ffi.new("sp_block *")
    with memoryview(raw) as view:
        source = ffi.from_buffer("uint8_t[]", view)
        code = lib.sp_block_begin(block, _rules(network, height), source, len(view))
        trailer = bytearray()
        if code == lib.SP_PROVED:
            code = lib.sp_block_feed(block, len(view))
        if code == lib.SP_TRAILER_WANTED:
            trailer = bytearray(lib.sp_block_trailer_bytes(len(view), block.facts.tx_count))
            room = ffi.from_buffer("uint8_t[]", trailer)
            lib.sp_block_set_trailer(block, room)
            code = lib.sp_block_feed(block, len(view))
            ffi.release(room)
        ffi.release(source)
    facts = block.facts
    if code != lib.SP_PROVED:
        raise _refused(code, facts)
    if height is None:
        height = _claimed_height(raw, facts)
    proved = ProvedBlock(raw, block_hash, memoryview(trailer).toreadonly(), facts, height)
    if network.signet_challenge is not None and block_hash != network.genesis_hash:
        check_solution(proved, network.signet_challenge)
    return proved
