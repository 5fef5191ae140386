"""Blocks replayed from files without the chain below them, each proved for itself alone.

Proof of work is checked against the block's own target and the network's limit, so the frames
say ``UNANCHORED``; the height is the one that the coinbase states (BIP34), if it does. Such a
block moves no tip.
"""

from __future__ import annotations

from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import BlockRefused, HeaderRefused
from bitcoin_sprint.frames import Flag
from bitcoin_sprint.ingest.block_frames import BlockFrames
from bitcoin_sprint.ingest.feed import Outcome, Source, Stamps, Verdict
from bitcoin_sprint.ingest.first_seen import SeenSet
from bitcoin_sprint.validate import check_header_alone, prove_block

SEEN_MAX: Final = 16_384


class LoneBlocks:
    """Proves and publishes lone blocks into ``blocks``. One thread."""

    def __init__(self, network: Network, blocks: BlockFrames) -> None:
        self._network = network
        self._blocks = blocks
        self._seen = SeenSet(SEEN_MAX)

    def take(self, source: Source, raw: bytes | memoryview, stamps: Stamps) -> Outcome:
        """Publish ``raw`` as a HEADER and a BLOCK frame, unless it was or its proof fails."""
        header = bytes(raw[:80])
        hash = self._network.block_hash(header)
        if hash in self._seen or self._blocks.block_published(hash):
            return Outcome(Verdict.DUPLICATE, hash)
        try:
            check_header_alone(header, self._network)
            proved = prove_block(raw, self._network)
        except (HeaderRefused, BlockRefused) as error:
            return Outcome(Verdict.REFUSED, hash, error.reason, punish=True)
        height = proved.height if proved.height is not None else -1
        self._blocks.publish_block(
            raw, proved, height=height, source=source, stamps=stamps, flags=Flag.UNANCHORED
        )
        self._seen.add(hash)
        return Outcome(Verdict.ACCEPTED, hash)
