"""The dialogue with one connected peer: what it says goes to the intake, what is wanted is asked.

Headers first: announcements by ``headers`` or ``inv`` lead to headers, headers to bodies, and the
intake says which bodies. A block's first 80 bytes go to the intake as a header while its body still
arrives; a body that nobody wants any more is not even stored.

A peer may send what it was asked for. Everything else has a rate with a burst (``SessionLimits``),
above which the peer is dropped: no peer can make us work without an end.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest import p2p_messages as messages
from bitcoin_sprint.ingest.feed import HeadersOutcome, Sink, Source, Stamps, Verdict
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.p2p_connection import Connection
from bitcoin_sprint.ingest.p2p_fields import Buffer
from bitcoin_sprint.ingest.p2p_headers import HeaderLead
from bitcoin_sprint.ingest.p2p_messages import InvItem, InvType, Message
from bitcoin_sprint.ingest.p2p_transactions import TransactionRequests
from bitcoin_sprint.ingest.token_bucket import TokenBucket

_log = logging.getLogger(__name__)

BLOCKS_IN_FLIGHT_MAX: Final = 32
NOT_FOUND_ITEMS_MAX: Final = 1_000

_BLOCK_TYPES: Final = frozenset({InvType.BLOCK, InvType.WITNESS_BLOCK, InvType.COMPACT_BLOCK})


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one peer; durations in seconds, rates a second."""

    headers_s: float = 15.0
    """Answer to ``getheaders``."""
    headers_patience_s: float = 1.0
    """As long an announcement waits for the answer to an open question; then it asks anew.

    Nodes that synchronise leave questions open, and announce the block that makes them ready."""
    headers_retry_s: float = 5.0
    """Wait before asking again where a question had no answer, or one that led nowhere."""
    headers_stalls_max: int = 3
    """Unanswered ``getheaders`` in a row after which the peer is dropped."""
    questions_per_s: float = 20.0
    questions_burst: int = 200
    """``getheaders`` that announcements make us send; beyond, they wait."""
    block_s: float = 30.0
    """A requested block completes, or the next one does, within this and its transfer time."""
    bytes_per_s_min: int = 16_384
    announced_headers_per_s: float = 400.0
    announced_headers_burst: int = 16_000
    announced_transactions_per_s: float = 20_000.0
    announced_transactions_burst: int = 200_000
    unrequested_blocks_per_s: float = 0.1
    unrequested_blocks_burst: int = 20
    unrequested_transactions_per_s: float = 1.0
    unrequested_transactions_burst: int = 500


class SessionSetting(msgspec.Struct, frozen=True, kw_only=True):
    """What all sessions of a process share."""

    network: Network
    sink: Sink
    limits: SessionLimits
    lead: HeaderLead
    requests: TransactionRequests | None
    """None: transactions are not followed."""
    clock: Callable[[], float]


class Session:
    """One connection's dialogue; ``p2p_connection.ConnectionOwner`` but for ready and closed.

    ``counts`` is the feed's, so that it goes on over connections.
    """

    def __init__(
        self,
        setting: SessionSetting,
        source: Source,
        connection: Connection,
        counts: Counter[str],
    ) -> None:
        self._setting = setting
        self._sink = setting.sink
        self._source = source
        self._connection = connection
        self._counts = counts
        self._blocks: dict[bytes, float] = {}
        self._block_progress_at = 0.0
        self._block_arriving: bytes | None = None
        self._headers_due: float | None = None
        self._headers_asked_at = float("-inf")
        self._headers_later = False
        self._headers_stalls = 0
        self._announced: bytes | None = None
        self._last_of_batch: bytes | None = None
        limits, now = setting.limits, setting.clock()
        self._questions = TokenBucket(limits.questions_per_s, limits.questions_burst, now)
        self._header_budget = TokenBucket(
            limits.announced_headers_per_s, limits.announced_headers_burst, now
        )
        self._announcement_budget = TokenBucket(
            limits.announced_transactions_per_s, limits.announced_transactions_burst, now
        )
        self._unrequested_blocks = TokenBucket(
            limits.unrequested_blocks_per_s, limits.unrequested_blocks_burst, now
        )
        self._unrequested_transactions = TokenBucket(
            limits.unrequested_transactions_per_s, limits.unrequested_transactions_burst, now
        )

    @property
    def can_fetch(self) -> bool:
        return self._connection.ready and len(self._blocks) < BLOCKS_IN_FLIGHT_MAX

    @property
    def blocks_in_flight(self) -> int:
        return len(self._blocks)

    def begin(self) -> None:
        """The handshake is done."""
        self._connection.send(messages.SendHeaders())
        self.ask_headers()

    def end(self, cause: Cause) -> None:
        """The connection is over."""
        asked, self._blocks = list(self._blocks), {}
        if cause is not Cause.CLOSED:
            for hash in asked:
                self._sink.on_body_failed(self._source, hash)
        self._setting.lead.give_up(self)
        if self._setting.requests is not None:
            self._setting.requests.forget(self, self._setting.clock())

    def check(self) -> None:
        """Hold our questions' deadlines against the clock; call several times a second."""
        now, limits = self._setting.clock(), self._setting.limits
        if self._headers_due is not None and now > self._headers_due:
            self._note_headers_stall()
        if self._announced is not None:
            self._follow_announcement(self._announced)
        if self._headers_later and now - self._headers_asked_at >= limits.headers_retry_s:
            self.ask_headers()
        if self._blocks and now > self._block_deadline():
            self._counts["block_stalls"] += 1
            oldest = next(iter(self._blocks))[::-1].hex()
            self._connection.close(Cause.BLOCK_STALL, f"{len(self._blocks)} asked, first {oldest}")
        if self._setting.requests is not None:
            self._setting.requests.expire(now)

    def _note_headers_stall(self) -> None:
        """A question had no answer: let another lead, ask again later, in the end give up.

        A node that itself still synchronises does not answer, so the first times are no fault.
        """
        limits = self._setting.limits
        self._headers_due = None
        self._headers_later = True
        self._headers_stalls += 1
        self._counts["headers_stalls"] += 1
        self._setting.lead.give_up(self)
        if self._headers_stalls > limits.headers_stalls_max:
            self._connection.close(Cause.HEADERS_STALL, f"none within {limits.headers_s:g} s")

    def _block_deadline(self) -> float:
        limits = self._setting.limits
        transfer = self._connection.receiving_bytes / limits.bytes_per_s_min
        return self._block_progress_at + limits.block_s + transfer

    # What we ask.

    def ask_headers(self) -> None:
        """Ask for headers after our best one, unless such a question is open."""
        if self._headers_due is None:
            self._ask_headers_after(None)

    def _ask_headers_after(self, hash: bytes | None) -> None:
        """``hash`` is the last of a full batch, None: after our best header."""
        now = self._setting.clock()
        self._headers_due = now + self._setting.limits.headers_s
        self._headers_asked_at = now
        self._headers_later = False
        self._announced = None
        self._last_of_batch = hash
        locator = list(self._sink.locator())
        if hash is not None:
            locator = [hash, *locator]
        self._connection.send(messages.GetHeaders(locator[: messages.LOCATOR_COUNT_MAX]))

    def _ask_headers_in_budget(self) -> None:
        """As ``ask_headers``, for what the peer's own words make us ask."""
        if self._questions.take(1, self._setting.clock()):
            self.ask_headers()
        else:
            self._headers_later = True
            self._announced = None

    def fetch(self, hashes: Iterable[bytes]) -> bool:
        """Ask for blocks; False when the peer can't be asked for all of them."""
        asked: list[InvItem] = []
        block = self._type(InvType.WITNESS_BLOCK, InvType.BLOCK)
        complete = self._connection.ready
        for hash in hashes:
            if not self.can_fetch:
                complete = False
                break
            if hash not in self._blocks:
                if not self._blocks:
                    self._block_progress_at = self._setting.clock()
                self._blocks[hash] = self._setting.clock()
                asked.append(InvItem(block, hash))
        if asked:
            self._counts["blocks_requested"] += len(asked)
            self._connection.send(messages.GetData(asked))
        return complete

    def ask_transactions(self, hashes: Sequence[bytes]) -> None:
        kind = self._type(InvType.WITNESS_TX, InvType.TX)
        if self._connection.wtxid_relay:
            kind = InvType.WTX
        self._counts["transactions_requested"] += len(hashes)
        self._connection.send(messages.GetData([InvItem(kind, hash) for hash in hashes]))

    def _type(self, witness: InvType, plain: InvType) -> InvType:
        version = self._connection.peer_version
        has_witness = version is not None and version.services & messages.Services.WITNESS
        return witness if has_witness else plain

    # What the peer says.

    def on_message(self, message: Message, stamps: Stamps) -> None:
        match message:
            case messages.Headers(headers):
                self._take_headers(headers, stamps)
            case messages.Block(raw):
                self._take_block(raw, stamps)
            case messages.Transaction(raw):
                self._take_transaction(raw, stamps)
            case messages.Inv(items):
                self._take_inventory(items)
            case messages.NotFound(items):
                self._take_not_found(items)
            case messages.GetHeaders():
                self._connection.send(messages.Headers([]))
            case messages.GetData(items):
                self._connection.send(messages.NotFound(items[:NOT_FOUND_ITEMS_MAX]))
            case messages.Reject(rejected, _, reason):
                detail = {
                    "source": self._source.name,
                    "rejected": ascii(rejected),
                    "reason": ascii(reason),
                }
                _log.debug("peer rejected a message", extra=detail)

    def _take_headers(self, headers: Sequence[bytes], stamps: Stamps) -> None:
        answers = self._headers_due is not None
        follows = self._last_of_batch in (None, headers[0][4:36] if headers else None)
        self._headers_due = self._last_of_batch = None
        self._headers_stalls = 0
        self._counts["headers"] += len(headers)
        is_free = answers and follows
        if not is_free and not self._header_budget.take(
            max(1, len(headers)), self._setting.clock()
        ):
            self._connection.close(Cause.HEADERS_FLOOD, "headers that were not asked for")
            return
        outcome = self._sink.on_headers(self._source, headers, stamps)
        if not self._follow_up(outcome, answers=answers):
            return
        if outcome.more and headers and self._setting.lead.may_continue(self):
            self._ask_headers_after(self._setting.network.block_hash(headers[-1]))
            return
        if answers and not outcome.more:
            self._setting.lead.give_up(self)
        announced, self._announced = self._announced, None
        if announced is not None and not self._sink.knows_header(announced):
            self._ask_headers_in_budget()

    def _follow_up(
        self, outcome: HeadersOutcome, *, answers: bool = False, arriving: bytes | None = None
    ) -> bool:
        """Do what headers lead to; False when they ended the connection.

        ``answers``: they answered our question. ``arriving``: the block that is on its way already.
        """
        if outcome.punish:
            self._connection.close(Cause.BAD_HEADER, outcome.refused or "refused")
            return False
        if outcome.unknown_parent is not None:
            if answers:
                self._headers_later = True  # it answered, and not with what leads to us
            else:
                self._ask_headers_in_budget()
        self.fetch([hash for hash in outcome.wanted if hash != arriving])
        return self._connection.closed_by is None

    def on_block_head(self, header: bytes, stamps: Stamps) -> bool:
        """A block's first 80 bytes are in; whether its body is wanted."""
        hash = self._setting.network.block_hash(header)
        self._block_arriving = hash
        if hash not in self._blocks and not self._allow_unrequested_block(hash):
            return False
        outcome = self._sink.on_headers(self._source, [header], stamps)
        if not self._follow_up(outcome, arriving=hash):
            return False
        if self._sink.wants_body(hash):
            return True
        self._counts["blocks_redundant"] += 1
        self._block_done(hash)
        return False

    def _allow_unrequested_block(self, hash: bytes) -> bool:
        self._counts["blocks_unrequested"] += 1
        if self._unrequested_blocks.take(1, self._setting.clock()):
            return True
        self._connection.close(Cause.UNREQUESTED, f"block {hash[::-1].hex()}")
        return False

    def on_bad_block_checksum(self) -> None:
        if self._block_arriving is not None:
            self._block_failed(self._block_arriving)

    def _take_block(self, raw: Buffer, stamps: Stamps) -> None:
        self._counts["blocks"] += 1
        self._block_done(self._setting.network.block_hash(bytes(raw[:80])))
        view = raw if isinstance(raw, bytes) else memoryview(raw)
        outcome = self._sink.on_block(self._source, view, stamps)
        if outcome.punish:
            self._connection.close(Cause.BAD_BLOCK, outcome.reason)
        elif outcome.verdict is Verdict.ORPHAN:
            self._ask_headers_in_budget()

    def _block_done(self, hash: bytes) -> None:
        if self._blocks.pop(hash, None) is not None:
            self._block_progress_at = self._setting.clock()

    def _block_failed(self, hash: bytes) -> None:
        if hash in self._blocks:
            self._block_done(hash)
            self._sink.on_body_failed(self._source, hash)

    def _take_transaction(self, raw: Buffer, stamps: Stamps) -> None:
        requests, now = self._setting.requests, self._setting.clock()
        self._counts["transactions"] += 1
        if requests is None:
            self._note_unrequested_transaction(now)
            return
        body = bytes(raw)
        if self._connection.wtxid_relay:
            wtxid = hashlib.sha256(hashlib.sha256(body).digest()).digest()
            if not requests.arrived(wtxid, now):
                self._note_unrequested_transaction(now)
                return
        outcome = self._sink.on_transaction(self._source, body, stamps, verified=False)
        if outcome.punish:
            self._connection.close(Cause.BAD_TRANSACTION, outcome.reason)
        elif not self._connection.wtxid_relay and not requests.arrived(outcome.hash, now):
            self._note_unrequested_transaction(now)

    def _note_unrequested_transaction(self, now: float) -> None:
        self._counts["transactions_unrequested"] += 1
        if not self._unrequested_transactions.take(1, now):
            self._connection.close(Cause.UNREQUESTED, "transactions")

    def _take_inventory(self, items: Sequence[InvItem]) -> None:
        blocks = [item.hash for item in items if item.type in _BLOCK_TYPES]
        if blocks and not self._sink.knows_header(blocks[-1]):
            self._counts["blocks_announced"] += len(blocks)
            self._follow_announcement(blocks[-1])
        requests, now = self._setting.requests, self._setting.clock()
        if requests is None:
            return
        kind = InvType.WTX if self._connection.wtxid_relay else InvType.TX
        hashes = [item.hash for item in items if item.type == kind]
        self._counts["transactions_announced"] += len(hashes)
        if hashes and not self._announcement_budget.take(len(hashes), now):
            self._connection.close(Cause.MESSAGE_FLOOD, "transactions announced")
            return
        requests.announced(self, hashes, now)

    def _follow_announcement(self, hash: bytes) -> None:
        """Ask for the headers that lead to an announced block, now or when it is time."""
        waited_s = self._setting.clock() - self._headers_asked_at
        if self._headers_due is None or waited_s >= self._setting.limits.headers_patience_s:
            self._headers_due = None
            self._ask_headers_in_budget()
        else:
            self._announced = hash

    def _take_not_found(self, items: Sequence[InvItem]) -> None:
        blocks = [item.hash for item in items if item.type in _BLOCK_TYPES]
        for hash in blocks:
            self._block_failed(hash)
        self._counts["blocks_not_found"] += len(blocks)
        if self._setting.requests is not None and len(blocks) < len(items):
            rest = [item.hash for item in items if item.type not in _BLOCK_TYPES]
            self._setting.requests.missing(self, rest, self._setting.clock())
