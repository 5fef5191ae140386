"""Which of Bitcoin Core's ZeroMQ topics a node gives us, and by which of its addresses.

A node may publish a topic at several addresses; one of them is taken, the first that spoke. Whether
a topic lives is known from the node's own list (RPC) where it has one: a notifier whose sending
failed once is shut down, and missing from the list from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bitcoin_sprint.ingest.zmq_line import ZmqLine

HASHBLOCK: Final = b"hashblock"
RAWBLOCK: Final = b"rawblock"
HASHTX: Final = b"hashtx"
RAWTX: Final = b"rawtx"
SEQUENCE: Final = b"sequence"
TOPICS: Final = (HASHBLOCK, RAWBLOCK, HASHTX, RAWTX, SEQUENCE)
BLOCK_TOPICS: Final = frozenset((HASHBLOCK, RAWBLOCK, SEQUENCE))


class Notifier(NamedTuple):
    """An entry of the node's list: a topic, and where it is published as the node sees it."""

    topic: bytes
    address: str


class NodeTopics:
    """See the module. ``addresses`` are those that we subscribe to."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._places = {_place(address) for address in addresses}
        self._homes: dict[bytes, ZmqLine] = {}
        self._listed: frozenset[Notifier] | None = None
        self._live: frozenset[bytes] = frozenset()

    @property
    def names(self) -> frozenset[bytes] | None:
        """The topics that the node says it publishes anywhere; None where it can't say."""
        return None if self._listed is None else frozenset(each.topic for each in self._listed)

    def is_live(self, topic: bytes) -> bool:
        """Whether messages of the topic are to be expected."""
        return topic in self._live

    def takes(self, topic: bytes, line: ZmqLine) -> bool:
        """Whether a message that came by ``line`` is to be taken, not left as another's copy."""
        home = self._homes.get(topic)
        if home is None:
            self._homes[topic] = line
            self._live |= {topic}
            return True
        return home is line

    def is_home(self, topic: bytes, line: ZmqLine) -> bool:
        """Whether the topic is taken from ``line``, as far as is known."""
        return self._homes.get(topic) is line

    def forget(self, line: ZmqLine) -> None:
        """``line`` broke; its topics may come by another from now on."""
        self._homes = {topic: home for topic, home in self._homes.items() if home is not line}

    def update(self, listed: frozenset[Notifier] | None) -> None:
        """Take the node's list, None where it can't be had."""
        self._listed = listed
        if listed is None:
            self._live = frozenset(self._homes)
            return
        # A node sees its addresses otherwise than we do (0.0.0.0), but the port is the same. Where
        # it is not (a forwarded one), a topic counts from its first message on.
        reachable = {each.topic for each in listed if _place(each.address) in self._places}
        self._live = frozenset(each.topic for each in listed) & (reachable | self._homes.keys())


def _place(address: str) -> str:
    """Port of a TCP address, the whole of another one."""
    return address.rpartition(":")[2] if address.startswith("tcp://") else address
