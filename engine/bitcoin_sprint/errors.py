"""The errors that Bitcoin Sprint raises, in families.

An error's text is for an operator: it names what was wrong, the value found, and what to do.
Outcomes that are expected on a hot path (nothing new yet, a frame that was lapped) are return
values, never exceptions.
"""

from __future__ import annotations


class SprintError(Exception):
    """Anything that Bitcoin Sprint reports as an error; a command ends with ``exit_code``."""

    exit_code = 1


class ConfigError(SprintError):
    """A configuration value is wrong; the text names the key, the value and the bound."""

    exit_code = 2


class HostError(SprintError):
    """The host refuses: permission, memory, a port taken, ``/dev/shm`` too small."""

    exit_code = 3


class NotRunningError(SprintError):
    """There is no such running instance."""

    exit_code = 4


class RingError(SprintError):
    """Something is wrong with a ring in shared memory."""


class Corrupt(RingError):
    """A segment's content contradicts the ring's specification."""


class Overrun(RingError):
    """What was asked for has been overwritten."""


class Closed(RingError):
    """The ring was closed by its writer, or this handle was closed."""


class WriterActive(RingError):
    """Another living process holds this segment's writer lock."""

    exit_code = 3


class FeedError(SprintError):
    """A source could not deliver."""


class FeedTimeout(FeedError):
    """A source did not answer within its bound."""


class ProtocolError(FeedError):
    """A peer broke the protocol that it speaks."""


class SubscriberError(SprintError):
    """A subscription can't go on."""


class Disconnected(SubscriberError):
    """The stream ended, and the subscriber was told not to reconnect, or was closed."""


class SubscriptionRefused(SubscriberError):
    """The server refused the subscription; trying again would not help. ``code`` is its reason
    (``transports.handshake.Refusal``)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"subscription refused: {text}")
        self.code = code


class BlockRefused(SprintError):
    """A block failed its proof. ``reason`` is a short stable word, Bitcoin Core's where it has one.

    ``mutated`` tells whether the fault may lie in this copy of the body alone, so that the hash
    must not be condemned with it.
    """

    def __init__(self, reason: str, detail: str = "", *, mutated: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.mutated = mutated


class HeaderRefused(SprintError):
    """A block header failed its proof. ``reason`` is a short stable word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class TransactionRefused(SprintError):
    """A transaction is malformed. ``reason`` is a short stable word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
