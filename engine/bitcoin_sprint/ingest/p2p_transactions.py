"""Which peer is asked for which announced transaction: one at a time, the next when it fails.

Each peer has a bound on what it is asked for at once and on what waits behind that; announcements
beyond are dropped and counted. What the first peer asked does not bring within ``REQUEST_S`` is
asked of the next that announced it. One object serves all peers of a process, in one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

REQUEST_S: Final = 5.0
IN_FLIGHT_PER_PEER_MAX: Final = 256
WAITING_PER_PEER_MAX: Final = 5_000
REQUESTS_MAX: Final = 50_000
"""Transactions asked for at once, over all peers."""
ALTERNATIVES_MAX: Final = 3
"""Other announcers remembered for each."""


class TransactionPeer(Protocol):
    """A peer that can be asked."""

    def ask_transactions(self, hashes: Sequence[bytes]) -> None:
        """Send the request for these announced hashes, now."""
        ...


class _Request:
    __slots__ = ("alternatives", "deadline", "peer")

    def __init__(
        self, peer: TransactionPeer, deadline: float, alternatives: Sequence[TransactionPeer]
    ) -> None:
        self.peer = peer
        self.deadline = deadline
        self.alternatives = list(alternatives)


class _PeerState:
    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting: deque[bytes] = deque()


class TransactionRequests:
    """See the module. ``wants`` says whether a hash is still unknown to the intake."""

    def __init__(self, wants: Callable[[bytes], bool]) -> None:
        self._wants = wants
        # In the order of their deadlines, since each new one has the latest.
        self._requests: dict[bytes, _Request] = {}
        self._peers: dict[TransactionPeer, _PeerState] = {}
        self.dropped_announcements = 0
        self.expired_requests = 0

    def __len__(self) -> int:
        return len(self._requests)

    def in_flight(self, peer: TransactionPeer) -> int:
        """How many transactions ``peer`` was asked for and has not answered."""
        state = self._peers.get(peer)
        return state.in_flight if state is not None else 0

    def announced(self, peer: TransactionPeer, hashes: Iterable[bytes], now: float) -> None:
        """``peer`` has these; it is asked for those that nobody else was asked for."""
        state = self._peers.setdefault(peer, _PeerState())
        for hash in hashes:
            request = self._requests.get(hash)
            if request is not None:
                self._remember(request, peer)
            elif len(state.waiting) >= WAITING_PER_PEER_MAX:
                self.dropped_announcements += 1
            elif self._wants(hash):
                state.waiting.append(hash)
        self._ask_waiting(peer, state, now)

    def arrived(self, hash: bytes, now: float) -> bool:
        """Somebody brought it; whether anyone had been asked for it at all."""
        request = self._requests.pop(hash, None)
        if request is None:
            return False
        self._free(request.peer, now)
        return True

    def missing(self, peer: TransactionPeer, hashes: Iterable[bytes], now: float) -> None:
        """``peer`` does not have these after all; the next announcer is asked."""
        for hash in hashes:
            request = self._requests.get(hash)
            if request is not None and request.peer is peer:
                self._next(hash, request, now)

    def expire(self, now: float) -> None:
        """Ask the next announcer where the bound has passed; call several times a second."""
        for hash, request in list(self._requests.items()):
            if request.deadline > now:
                break
            self.expired_requests += 1
            self._next(hash, request, now)

    def forget(self, peer: TransactionPeer, now: float) -> None:
        """``peer`` is gone."""
        self._peers.pop(peer, None)
        for hash, request in list(self._requests.items()):
            if peer in request.alternatives:
                request.alternatives.remove(peer)
            if request.peer is peer:
                self._next(hash, request, now)

    def _remember(self, request: _Request, peer: TransactionPeer) -> None:
        alternatives = request.alternatives
        is_new = peer is not request.peer and peer not in alternatives
        if is_new and len(alternatives) < ALTERNATIVES_MAX:
            alternatives.append(peer)

    def _next(self, hash: bytes, request: _Request, now: float) -> None:
        """Give the request to its next announcer, or give it up."""
        if self._requests.get(hash) is not request:
            return
        del self._requests[hash]
        alternatives = [peer for peer in request.alternatives if peer in self._peers]
        if alternatives and self._wants(hash):
            peer, *others = alternatives
            state = self._peers[peer]
            if state.in_flight < IN_FLIGHT_PER_PEER_MAX:
                self._request(peer, [hash], now, others)
            elif len(state.waiting) < WAITING_PER_PEER_MAX:
                state.waiting.append(hash)
        self._free(request.peer, now)

    def _free(self, peer: TransactionPeer, now: float) -> None:
        state = self._peers.get(peer)
        if state is not None:
            state.in_flight -= 1
            self._ask_waiting(peer, state, now)

    def _ask_waiting(self, peer: TransactionPeer, state: _PeerState, now: float) -> None:
        """Ask ``peer`` for as much of what waits as its bound allows."""
        batch: list[bytes] = []
        room = min(IN_FLIGHT_PER_PEER_MAX - state.in_flight, REQUESTS_MAX - len(self._requests))
        while state.waiting and len(batch) < room:
            hash = state.waiting.popleft()
            request = self._requests.get(hash)
            if request is not None:
                self._remember(request, peer)
            elif hash not in batch and self._wants(hash):
                batch.append(hash)
        if batch:
            self._request(peer, batch, now)

    def _request(
        self,
        peer: TransactionPeer,
        hashes: list[bytes],
        now: float,
        alternatives: Sequence[TransactionPeer] = (),
    ) -> None:
        for hash in hashes:
            self._requests[hash] = _Request(peer, now + REQUEST_S, alternatives)
        self._peers[peer].in_flight += len(hashes)
        # Last, since asking may find the peer dead and have it forgotten.
        peer.ask_transactions(hashes)
