"""Which feed is asked for which body: one at first, all when it does not deliver.

A block's body is 1 to 4 MB, so asking everyone at once would make each copy slower; but no
source may hold a block back. So one is asked, at the tip soon a second and a third, after a bound
all others, then all again at longer intervals for as long as the body is wanted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, Final

from bitcoin_sprint.ingest.feed import Feed, Source, SourceKind

HELP_AFTER_S: Final = (0.25, 0.75)
"""How long the first source asked for a block at the tip has, before a second is asked as well, and
a third: whoever announced it first and keeps it delays it by no more."""
HELPED_MAX: Final = 2
"""With more bodies wanted than these we are catching up: then each copy counts, none hurries."""
RACE_AFTER_S: Final = 2.0
"""How long the first source asked has, before all others are asked too."""
RETRY_AFTER_S: Final = 10.0
RETRY_AFTER_MAX_S: Final = 120.0
REQUESTS_MAX: Final = 64
IN_FLIGHT_PER_FEED_MAX: Final = 16
DEMANDED_S: Final = 60.0
"""How long a body that a node's word needs is asked for at most."""

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class _Request:
    """One body that is wanted, and whom it was asked of (by source index)."""

    __slots__ = (
        "asked",
        "asked_at",
        "demanded_by",
        "first_asked_at",
        "hash",
        "raced",
        "rounds",
        "since",
    )

    def __init__(self, hash: bytes, now: float) -> None:
        self.hash = hash
        self.since = now
        self.asked: set[int] = set()
        self.asked_at = now
        self.first_asked_at = now
        self.raced = False
        self.rounds = 0
        self.demanded_by: Source | None = None

    def is_race_due(self, now: float) -> bool:
        if not self.raced:
            return now - self.first_asked_at >= RACE_AFTER_S
        wait_s = float(min(RETRY_AFTER_S * 2**self.rounds, RETRY_AFTER_MAX_S))
        return now - self.asked_at >= wait_s

    def is_help_due(self, now: float) -> bool:
        helpers = len(self.asked) - 1
        if self.raced or helpers >= len(HELP_AFTER_S):
            return False
        return now - self.first_asked_at >= HELP_AFTER_S[helpers]


class BodyFetcher:
    """Asks feeds for the bodies that are wanted. One thread, that of the event loop.

    ``clock``: seconds, monotonic. ``spawn`` runs a coroutine in the background; by default as a
    task of the running loop. ``on_request`` is called when a body is wanted that was not.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn | None = None,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._spawn = spawn or self._spawn_task
        self._on_request = on_request
        self._feeds: list[Feed] = []
        self._requests: dict[bytes, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked_count = 0
        self.raced_count = 0

    def add_feed(self, feed: Feed) -> None:
        """Let ``feed`` be asked from now on."""
        self._feeds.append(feed)

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def book(self, hashes: Iterable[bytes], source: Source) -> list[bytes]:
        """Want all of ``hashes``; ``source`` itself asks for those that nobody was asked for yet.

        Returns them, in order. What a source that can't be asked leaves over is asked of others
        at the next ``tick``.
        """
        feed = self._feed_of(source)
        room = 0
        if feed is not None and feed.can_fetch:
            room = IN_FLIGHT_PER_FEED_MAX - self._in_flight(source.index)
        booked: list[bytes] = []
        for hash in hashes:
            request = self._request(hash)
            if request is None:
                break
            if not request.asked and len(booked) < room:
                self._note_asked(request, source.index)
                booked.append(hash)
        return booked

    def want(self, hashes: Iterable[bytes]) -> None:
        """Ask for bodies, each of one feed for now."""
        for hash in hashes:
            request = self._request(hash)
            if request is not None and not request.asked:
                self._ask_one(request)

    def demand(self, hash: bytes, source: Source) -> None:
        """Ask for a body that the word of the node ``source`` needs, of that node first."""
        request = self._request(hash)
        if request is None or request.demanded_by is not None:
            return
        request.demanded_by = source
        feed = self._feed_of(source)
        if feed is not None and feed.can_fetch and source.index not in request.asked:
            self._ask(request, feed)
        elif not request.asked:
            self._ask_one(request)

    def retain(self, wanted: Collection[bytes]) -> None:
        """Forget what is not in ``wanted``, unless a node's word needs it."""
        for request in list(self._requests.values()):
            if request.demanded_by is None and request.hash not in wanted:
                del self._requests[request.hash]

    def arrived(self, hash: bytes) -> None:
        """A proved copy is here; nobody is asked any more."""
        self._requests.pop(hash, None)

    def give_up(self, hash: bytes) -> None:
        """No copy of it can be right; nobody is asked any more."""
        self._requests.pop(hash, None)

    def failed(self, hash: bytes, source: Source) -> None:
        """The copy that ``source`` sent was wrong, or it can't send one: ask another at once."""
        request = self._requests.get(hash)
        if request is not None:
            request.asked.add(source.index)
            self._ask_one(request)

    def tick(self) -> None:
        """Ask again where a bound has passed; to be called several times a second."""
        now = self._clock()
        for request in list(self._requests.values()):
            if request.demanded_by is not None and now - request.since > DEMANDED_S:
                del self._requests[request.hash]
            elif not request.asked:
                self._ask_one(request)
            elif request.is_race_due(now):
                self._ask_all_others(request)
            elif len(self._requests) <= HELPED_MAX and request.is_help_due(now):
                self._ask_one(request)

    def _request(self, hash: bytes) -> _Request | None:
        request = self._requests.get(hash)
        if request is None:
            if len(self._requests) >= REQUESTS_MAX:
                return None
            request = self._requests[hash] = _Request(hash, self._clock())
            self._on_request()
        return request

    def _feed_of(self, source: Source) -> Feed | None:
        return next((feed for feed in self._feeds if feed.source.index == source.index), None)

    def _in_flight(self, index: int) -> int:
        return sum(index in request.asked for request in self._requests.values())

    def _ask_one(self, request: _Request) -> None:
        """Ask the least busy feed not asked yet; peers before nodes, whose RPC costs more."""
        able = [
            (feed.source.kind is not SourceKind.P2P, self._in_flight(feed.source.index), number)
            for number, feed in enumerate(self._feeds)
            if feed.can_fetch and feed.source.index not in request.asked
        ]
        able = [rank for rank in able if rank[1] < IN_FLIGHT_PER_FEED_MAX]
        if able:
            self._ask(request, self._feeds[min(able)[2]])

    def _ask_all_others(self, request: _Request) -> None:
        able = [feed for feed in self._feeds if feed.can_fetch]
        others = [feed for feed in able if feed.source.index not in request.asked]
        if request.raced:
            request.rounds += 1
        request.raced = True
        request.asked_at = self._clock()
        self.raced_count += 1
        if not others:
            request.asked.clear()
        for feed in others or able:
            self._ask(request, feed)

    def _ask(self, request: _Request, feed: Feed) -> None:
        self._note_asked(request, feed.source.index)
        self._spawn(self._fetch(request.hash, feed))

    def _note_asked(self, request: _Request, index: int) -> None:
        request.asked_at = self._clock()
        if not request.asked:
            request.first_asked_at = request.asked_at
        request.asked.add(index)
        self.asked_count += 1

    async def _fetch(self, hash: bytes, feed: Feed) -> None:
        try:
            asked = await feed.fetch_block(hash)
        except Exception:
            log.exception("asking %s for block %s failed", feed.name, hash[::-1].hex())
            asked = False
        if not asked:
            self.failed(hash, feed.source)

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)
