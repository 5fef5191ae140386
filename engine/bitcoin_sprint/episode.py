"""Trouble as an episode: told once when it begins, and once when it ends.

An episode begins with the first failure and ends when all is well. Each cause that turns up in it
is told once, however often it is met. What fails again within ``STEADY_S`` of its recovery has not
recovered: the episode goes on, that too is told once, and its end only when all has been well for
that long. So whatever comes and goes, its lines stay few.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

STEADY_S: Final = 30.0
"""How long what came and went must hold before its trouble counts as over."""

Cause = TypeVar("Cause", bound=Hashable)

_log = logging.getLogger(__name__)


class Episode(Generic[Cause]):
    """The trouble of what is called ``name``; see the module. One thread.

    ``clock``: seconds, monotonic. ``level`` is how its beginning is logged.
    """

    def __init__(
        self,
        name: str,
        *,
        level: int = logging.WARNING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._level = level
        self._clock = clock
        self._since = 0.0
        self._ended_at: float | None = None
        self._told: set[Cause] = set()
        self._is_unsteady = False
        self._is_end_due = False
        self.state: Cause | None = None
        """What is wrong; None while all is well."""
        self.text = ""
        """Why, and what to do; empty while all is well."""
        self.attempts = 0
        """Attempts in vain in this episode, or in the last one."""
        self.count = 0
        """Episodes up to now."""

    def fail(self, state: Cause, text: str, *, is_attempt: bool = True, **fields: Any) -> None:
        """It fails, or fails still. ``is_attempt`` False: a connection that worked was lost."""
        self.settle()
        begins = self.state is None
        self.state, self.text = state, text
        if begins and not self._relapses():
            self._begin()
        self.attempts += is_attempt
        if state in self._told:
            return
        self._told.add(state)
        ending = (
            "trying on" if not self._is_unsteady else f"told again once it holds {STEADY_S:g} s"
        )
        _log.log(
            self._level,
            "%s: %s; %s",
            self._name,
            text,
            ending,
            extra={"source": self._name, **fields},
        )

    def end(self, **fields: Any) -> bool:
        """All is well; whether that was news that was told."""
        if self.state is None:
            self.settle()
            return False
        self.state, self.text = None, ""
        self._ended_at = self._clock()
        if self._is_unsteady:
            self._is_end_due = True
            return False
        self._tell_end(fields)
        return True

    def settle(self) -> None:
        """Tell of an end that has held for long enough by now; to be called now and then."""
        if not self._is_end_due or self.state is not None or self._is_fresh():
            return
        self._is_end_due = self._is_unsteady = False
        self._tell_end({})

    def _begin(self) -> None:
        self._since = self._clock()
        self._told.clear()
        self.attempts = 0
        self.count += 1

    def _relapses(self) -> bool:
        """Whether the last recovery was none; what was told of that trouble is not told again."""
        if not self._is_fresh():
            return False
        if not self._is_unsteady:
            self._is_unsteady = True
            self._told.clear()
        self._is_end_due = False
        return True

    def _is_fresh(self) -> bool:
        return self._ended_at is not None and self._clock() - self._ended_at < STEADY_S

    def _tell_end(self, fields: dict[str, Any]) -> None:
        assert self._ended_at is not None
        seconds = self._ended_at - self._since
        _log.info(
            "%s: well again after %.1f s",
            self._name,
            seconds,
            extra={
                "source": self._name,
                "lasted_s": round(seconds, 1),
                "attempts": self.attempts,
                **fields,
            },
        )
