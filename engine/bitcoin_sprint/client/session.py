"""What a subscriber decides, whatever waits for it: options, resuming, backoff. Sans I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

import msgspec

from bitcoin_sprint.client.decoder import StreamDecoder
from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.numbering import Numbering, OnGap, OnSession
from bitcoin_sprint.errors import Disconnected, ProtocolError, SubscriptionRefused
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.codec import Message, pack_message
from bitcoin_sprint.transports.handshake import (
    BLOCKS_KINDS,
    TX_KINDS,
    ErrorMessage,
    Refusal,
    Start,
    StartMode,
    Subscribe,
    VersionRefused,
    Welcome,
)

StartAt = Literal["newest", "oldest"]

_DELAY_MIN_S = 0.05
_DELAY_MAX_S = 5.0
_SILENCE_BEATS = 4
_SILENCE_MIN_S = 4.0
_FINAL_REFUSALS = frozenset({Refusal.MALFORMED, Refusal.VERSION, Refusal.TIER, Refusal.KEY})
_STARTS = {"newest": StartMode.NEWEST, "oldest": StartMode.OLDEST}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber was asked to do."""

    tier: str
    kinds: frozenset[int]
    start: StartAt
    name: str
    reconnect: bool
    connect_timeout: float
    curve_server_key: str


def make_options(
    *,
    tier: str,
    kinds: Iterable[Kind],
    start: StartAt,
    name: str,
    reconnect: bool,
    connect_timeout: float,
    curve_server_key: str,
) -> Options:
    """Check what a caller gave; raises ValueError."""
    chosen = frozenset(int(kind) for kind in kinds)
    unknown = chosen - BLOCKS_KINDS - TX_KINDS
    if unknown:
        raise ValueError(f"kinds {sorted(unknown)} are not in a ring")
    if start not in _STARTS:
        raise ValueError(f"start = {start!r}: expected 'newest' or 'oldest'")
    return Options(
        tier=tier,
        kinds=chosen,
        start=start,
        name=name,
        reconnect=reconnect,
        connect_timeout=connect_timeout,
        curve_server_key=curve_server_key,
    )


class StreamSession:
    """One subscription over all its connections."""

    def __init__(
        self, options: Options, on_gap: OnGap | None, on_session: OnSession | None
    ) -> None:
        self._options = options
        self.numbering = Numbering(on_gap, on_session)
        self.decoder = StreamDecoder(self.numbering)
        self.welcome: Welcome | None = None
        self.attempts = 0
        """Connections that failed since the last one that was welcomed."""
        self.connections = 0

    def hello(self) -> bytes:
        """The SUBSCRIBE of a fresh connection: the first start, or where the last one broke off."""
        self.decoder = StreamDecoder(self.numbering)
        options = self._options
        first = Start(_STARTS[options.start])
        subscribe = Subscribe(
            blocks=self.numbering.resume(Kind.HEADER) or first,
            tx=self.numbering.resume(Kind.TX) or first,
            kinds=options.kinds,
            tier=options.tier,
            name=options.name,
        )
        return pack_message(Message.SUBSCRIBE, subscribe.pack())

    def feed(self, data: memoryview) -> None:
        """Take bytes of the connection. Raises ProtocolError."""
        self.decoder.feed(data)

    def next_frame(self) -> Frame | None:
        """The next whole frame of what was fed.

        Raises SubscriptionRefused for good; ConnectionError when the server ended the stream.
        """
        self.peek_welcome()
        event = self.decoder.events.popleft() if self.decoder.events else None
        assert event is None or isinstance(event, Frame)
        return event

    def peek_welcome(self) -> None:
        """Take note of a WELCOME or ERROR that stands first; frames stay for ``next_frame``."""
        events = self.decoder.events
        while events and not isinstance(events[0], Frame):
            event = events.popleft()
            if isinstance(event, Welcome):
                self._welcomed(event)
            elif isinstance(event, ErrorMessage):
                self._refused(event)

    def _welcomed(self, welcome: Welcome) -> None:
        self.welcome = welcome
        self.attempts = 0
        self.connections += 1

    def _refused(self, error: ErrorMessage) -> None:
        if error.code in _FINAL_REFUSALS:
            raise SubscriptionRefused(error.code, error.text)
        raise ConnectionError(error.text)

    @property
    def silence_limit(self) -> float:
        """Seconds without a byte after which the connection counts as dead."""
        if self.welcome is None:
            return self._options.connect_timeout
        return max(_SILENCE_MIN_S, _SILENCE_BEATS * self.welcome.heartbeat_ms / 1000)

    def failed(self, error: Exception) -> float:
        """A connection failed: seconds to wait before the next. Raises what can't be retried."""
        if isinstance(error, VersionRefused):
            raise SubscriptionRefused(Refusal.VERSION, str(error)) from error
        if not self._options.reconnect:
            reason = error if isinstance(error, ProtocolError) else f"{error or 'closed'}"
            raise Disconnected(f"the stream ended: {reason}") from error
        self.attempts += 1
        return retry_delay(self.attempts)


def retry_delay(attempts: int) -> float:
    """Seconds before another attempt: doubling up to a bound, with jitter, so that a thousand
    subscribers of one server that restarted do not come back in the same instant."""
    ceiling = min(_DELAY_MAX_S, _DELAY_MIN_S * float(1 << min(attempts - 1, 10)))
    return ceiling * random.uniform(0.5, 1.0)
