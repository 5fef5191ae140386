"""The recording sink for feeds that are nodes: it also keeps what the node says, in order."""

# ruff: noqa: ARG002 - the signatures are the protocol's

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from recording_sink import RecordingSink

from bitcoin_sprint.errors import TransactionRefused
from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest.feed import NO_STAMPS, Outcome, Source, Stamps, Verdict
from bitcoin_sprint.validate import prove_transaction

GRACE_SECONDS: Final = 0.03


class Said(NamedTuple):
    """One word: ``what`` is A, R, C, D, up or down."""

    what: str
    hash: bytes | None = None
    number: int = 0
    raw: bytes | None = None


class NodeSink(RecordingSink):
    """See the module."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.said: list[Said] = []
        self.wants_above = 0
        """Bodies up to this height are not wanted."""

    @property
    def tips(self) -> list[tuple[str, bytes | None]]:
        """What was said of blocks and the node itself."""
        return [(each.what, each.hash) for each in self.said if each.what not in "AR"]

    @property
    def changes(self) -> list[tuple[str, bytes | None]]:
        """What was said of the mempool."""
        return [(each.what, each.hash) for each in self.said if each.what in "AR"]

    def wants_body(self, hash: bytes) -> bool:
        return super().wants_body(hash) and self.heights[hash] > self.wants_above

    def on_block(
        self, source: Source, raw: bytes | memoryview, stamps: Stamps = NO_STAMPS
    ) -> Outcome:
        header = bytes(raw[:80])
        hash, parent = self.network.block_hash(header), header[4:36]
        outcome = self._judge_block(source, raw, stamps)
        if outcome.verdict is Verdict.ACCEPTED and hash not in self.heights:
            self.heights[hash] = self.heights[parent] + 1
            self.parents[hash] = parent
        self.block_outcomes.append(outcome)
        self.changed()
        return outcome

    def on_transaction(
        self,
        source: Source,
        raw: bytes | memoryview,
        stamps: Stamps = NO_STAMPS,
        *,
        verified: bool = False,
    ) -> Outcome:
        assert verified
        try:
            txid, _ = prove_transaction(raw)
        except TransactionRefused as error:
            return Outcome(Verdict.REFUSED, b"", error.reason)
        known = txid in self.transactions
        self.transactions[txid] = bytes(raw)
        self.stamps[txid] = stamps
        self.changed()
        return Outcome(Verdict.DUPLICATE if known else Verdict.ACCEPTED, txid)

    def on_mempool(
        self,
        source: Source,
        action: MempoolAction,
        txid: bytes,
        mempool_sequence: int,
        raw: bytes | None = None,
        stamps: Stamps = NO_STAMPS,
    ) -> None:
        self._say(Said(chr(action), txid, mempool_sequence, raw))

    def on_node_connected(self, source: Source, tip: bytes | None) -> None:
        self._say(Said("up", tip))

    def on_node_lost(self, source: Source) -> None:
        self._say(Said("down"))

    def on_node_tip(self, source: Source, action: TipAction, hash: bytes) -> None:
        self._say(Said(chr(action), hash))
        # A body may be on its way by itself.
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._fetch_if_lacking, hash)

    def _fetch_if_lacking(self, hash: bytes) -> None:
        if hash not in self.bodies:
            self.fetch_from_all(hash)

    def _say(self, said: Said) -> None:
        self.said.append(said)
        self.changed()
