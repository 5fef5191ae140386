"""One announcer is asked at a time, the next when it fails, and every queue has its bound."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bitcoin_sprint.ingest import p2p_transactions
from bitcoin_sprint.ingest.p2p_transactions import (
    IN_FLIGHT_PER_PEER_MAX,
    REQUEST_S,
    WAITING_PER_PEER_MAX,
    TransactionRequests,
)


class Peer:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def ask_transactions(self, hashes: Sequence[bytes]) -> None:
        self.asked += hashes


def names(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(start, start + count)]


def everything(_: bytes) -> bool:
    return True


def test_only_the_first_announcer_is_asked() -> None:
    requests = TransactionRequests(everything)
    first, second = Peer(), Peer()
    requests.announced(first, names(3), 0.0)
    requests.announced(second, names(3), 0.0)
    assert first.asked == names(3)
    assert second.asked == []


def test_what_the_intake_knows_is_not_asked_for() -> None:
    requests = TransactionRequests(lambda hash: hash != names(1)[0])
    peer = Peer()
    requests.announced(peer, names(2), 0.0)
    assert peer.asked == names(2)[1:]


def test_the_next_announcer_is_asked_when_the_first_does_not_deliver() -> None:
    requests = TransactionRequests(everything)
    first, second = Peer(), Peer()
    for peer in (first, second):
        requests.announced(peer, names(1), 0.0)
    requests.expire(REQUEST_S - 0.1)
    assert second.asked == []
    requests.expire(REQUEST_S)
    assert second.asked == names(1)
    assert requests.in_flight(first) == 0
    assert requests.expired_requests == 1
    requests.expire(REQUEST_S * 2)
    assert len(requests) == 0


def test_the_next_announcer_is_asked_at_once_for_what_the_first_has_not() -> None:
    requests = TransactionRequests(everything)
    first, second = Peer(), Peer()
    for peer in (first, second):
        requests.announced(peer, names(2), 0.0)
    requests.missing(second, names(2), 0.0)  # it was not asked: its word changes nothing
    assert second.asked == []
    requests.missing(first, names(1), 0.0)
    assert second.asked == names(1)


def test_the_next_announcer_is_asked_when_the_first_is_gone() -> None:
    requests = TransactionRequests(everything)
    first, second = Peer(), Peer()
    for peer in (first, second):
        requests.announced(peer, names(5), 0.0)
    requests.forget(first, 1.0)
    assert second.asked == names(5)
    requests.forget(second, 1.0)
    assert len(requests) == 0


def test_an_arrival_answers_whoever_was_asked() -> None:
    requests = TransactionRequests(everything)
    peer = Peer()
    requests.announced(peer, names(1), 0.0)
    assert requests.arrived(names(1)[0], 1.0)
    assert not requests.arrived(names(1)[0], 1.0)
    assert requests.in_flight(peer) == 0


def test_a_peer_is_asked_for_a_bounded_number_at_once_and_for_the_rest_later() -> None:
    requests = TransactionRequests(everything)
    peer = Peer()
    requests.announced(peer, names(IN_FLIGHT_PER_PEER_MAX + 3), 0.0)
    assert len(peer.asked) == IN_FLIGHT_PER_PEER_MAX
    requests.arrived(peer.asked[0], 0.0)
    assert len(peer.asked) == IN_FLIGHT_PER_PEER_MAX + 1


def test_announcements_beyond_a_peers_bound_are_dropped_and_counted() -> None:
    requests = TransactionRequests(everything)
    peer = Peer()
    requests.announced(peer, names(IN_FLIGHT_PER_PEER_MAX), 0.0)
    requests.announced(peer, names(WAITING_PER_PEER_MAX + 7, start=1_000_000), 0.0)
    assert requests.dropped_announcements == 7


def test_a_peer_that_dies_of_being_asked_breaks_nothing() -> None:
    requests = TransactionRequests(everything)

    class Fragile(Peer):
        def ask_transactions(self, hashes: Sequence[bytes]) -> None:
            super().ask_transactions(hashes)
            requests.forget(self, 0.0)

    first, second, third = Peer(), Fragile(), Peer()
    for peer in (first, second, third):
        requests.announced(peer, names(4), 0.0)
    requests.forget(first, 0.0)
    assert third.asked == names(4)
    assert requests.in_flight(third) == 4


class RequestsMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books balance."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[bytes] = set()
        self.requests = TransactionRequests(lambda hash: hash not in self.known)
        self.peers = [Peer() for _ in range(4)]
        self.now = 0.0

    peer = st.integers(0, 3)
    hashes = st.lists(st.integers(0, 40), max_size=12)

    @rule(peer=peer, hashes=hashes)
    def announce(self, peer: int, hashes: list[int]) -> None:
        self.requests.announced(self.peers[peer], [names(1, h)[0] for h in hashes], self.now)

    @rule(hash=st.integers(0, 40))
    def arrive(self, hash: int) -> None:
        name = names(1, hash)[0]
        self.known.add(name)
        self.requests.arrived(name, self.now)

    @rule(peer=peer, hashes=hashes)
    def miss(self, peer: int, hashes: list[int]) -> None:
        self.requests.missing(self.peers[peer], [names(1, h)[0] for h in hashes], self.now)

    @rule(peer=peer)
    def leave(self, peer: int) -> None:
        self.requests.forget(self.peers[peer], self.now)
        self.peers[peer] = Peer()

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.requests.expire(self.now)

    @invariant()
    def in_flight_adds_up(self) -> None:
        counts = [self.requests.in_flight(peer) for peer in self.peers]
        assert sum(counts) == len(self.requests)
        assert all(0 <= count <= 3 for count in counts)

    def teardown(self) -> None:
        self.now += 1_000.0
        for _ in range(200):
            self.requests.expire(self.now)
            self.now += REQUEST_S
        assert len(self.requests) == 0


class TestRequests(RequestsMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

    def setUp(self) -> None:
        self._bound = p2p_transactions.IN_FLIGHT_PER_PEER_MAX
        p2p_transactions.IN_FLIGHT_PER_PEER_MAX = 3  # type: ignore[misc]

    def tearDown(self) -> None:
        p2p_transactions.IN_FLIGHT_PER_PEER_MAX = self._bound  # type: ignore[misc]
