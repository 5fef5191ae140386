"""Which peer's header chain is followed while we catch up: one at a time.

A first synchronisation is hundreds of batches of headers. Every peer is asked for one, but only
the leader is asked for more; when it has no more, or is gone, all others are asked again, and the
first that has more leads. So the chain is fetched once and no peer alone decides where it ends.
"""

from __future__ import annotations

from typing import Protocol


class HeadersPeer(Protocol):
    """A peer that can be asked for headers."""

    def ask_headers(self) -> None:
        """Ask for headers after our best one."""
        ...


class HeaderLead:
    """The leader's seat. One thread."""

    def __init__(self) -> None:
        self._leader: HeadersPeer | None = None
        self._waiting: list[HeadersPeer] = []

    def may_continue(self, peer: HeadersPeer) -> bool:
        """``peer`` has more; whether it is the one to be asked. If not, it is asked later."""
        if self._leader is None:
            self._leader = peer
        if self._leader is peer:
            return True
        if peer not in self._waiting:
            self._waiting.append(peer)
        return False

    def give_up(self, peer: HeadersPeer) -> None:
        """``peer`` has no more, does not answer, or is gone."""
        if peer in self._waiting:
            self._waiting.remove(peer)
        if self._leader is not peer:
            return
        self._leader = None
        waiting, self._waiting = self._waiting, []
        for other in waiting:
            other.ask_headers()
