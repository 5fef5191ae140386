"""The calls that a trading loop makes, by CPython's own protocol; C in ``native/python``.

Only ``native.py`` imports this. A base's ``_aim`` says what it works on; a negative code of the C
core goes to its ``_failed``, which raises.
"""

from collections.abc import Sequence
from typing import Any, Generic, NoReturn, TypeVar

from typing_extensions import Buffer

_FrameClass = TypeVar("_FrameClass", bound=Frame)

def connect(publish: int, commit: int, /) -> None:
    """Takes the addresses of ``sp_writer_publish`` and ``sp_reservation_commit``."""

class Publisher:
    def publish(
        self,
        kind: int,
        payload: Buffer | Sequence[Buffer],
        /,
        *,
        hash: bytes,
        level: int,
        height: int = -1,
        flags: int = 0,
        chain: int = 1,
        source: int = 0,
        origin_ns: int = 0,
        first_byte_ns: int = 0,
        last_byte_ns: int = 0,
    ) -> int:
        """Publish one frame and return its sequence number.

        ``payload`` is bytes, or a sequence of pieces that are gathered in the ring without being
        joined first. ``hash`` has 32 bytes in internal order; the times are CLOCK_REALTIME ns, 0
        for not known. Raises RingError for a payload of more than half the arena, ValueError for a
        hash of another length, OverflowError for a number out of its field. The GIL is released
        for 64 KiB and more.
        """

    def _aim(self, keeper: object, address: int, /) -> None: ...
    def _failed(self, code: int) -> NoReturn: ...

class Committer:
    def commit(
        self,
        kind: int,
        /,
        *,
        hash: bytes,
        level: int,
        height: int = -1,
        flags: int = 0,
        chain: int = 1,
        source: int = 0,
        origin_ns: int = 0,
        first_byte_ns: int = 0,
        last_byte_ns: int = 0,
    ) -> int:
        """Publish what was received, as ``Writer.publish`` does; returns the sequence number.

        Costs the same for any length, unless it was revoked.
        """

    def _aim(self, publisher: Publisher, keeper: object, address: int, /) -> None: ...
    def _failed(self, code: int) -> NoReturn: ...

class Frame(Buffer):
    ring: Any
    """The Ring that it was read from."""
    sequence: int
    position: int
    """Absolute place in the arena; frames may lie there in another order than their numbers."""
    length: int
    """Bytes of the payload."""
    crc32c: int
    """CRC32C of the payload, as the writer reckoned it."""
    kind: int
    """A ``frames.Kind``."""
    chain: int
    """A ``frames.Chain``."""
    level: int
    """A ``frames.Level``."""
    flags: int
    """``frames.Flag`` bits."""
    height: int
    """-1: not known."""
    source: int
    """Index into the source table; ``Ring.source_name`` has the name."""
    publish_ns: int
    """CLOCK_REALTIME when it was published."""
    origin_ns: int
    """CLOCK_REALTIME when the sender says it was made, 0: not known."""
    first_byte_ns: int
    """CLOCK_REALTIME when its first byte arrived, 0: not known."""
    last_byte_ns: int
    """CLOCK_REALTIME when its last byte arrived, 0: not known."""
    stamp_ns: int
    """CLOCK_MONOTONIC at publication, strictly increasing over both rings of an instance."""

    @property
    def payload(self) -> memoryview:
        """The payload in the ring, read-only, not copied. Ask ``valid()`` after using it.

        Keeps the mapping alive, also past ``Ring.close``.
        """

    @property
    def hash(self) -> bytes:
        """Block hash or txid, 32 bytes in internal order."""

    @property
    def descriptor(self) -> bytes:
        """All fields as the 128 bytes of ``layout.DESCRIPTOR``."""

    def valid(self) -> bool:
        """Whether everything read from the payload before this call was whole."""

class Cursor(Generic[_FrameClass]):
    def poll(self) -> _FrameClass | None:
        """The next frame, None when there is none yet.

        Raises Closed once a ring that its writer ended was read to its end, Corrupt naming what
        contradicts the specification.
        """

    def wait(self, timeout: float | None = None) -> _FrameClass | None:
        """The next frame, waiting for it in this reader's mode; None after ``timeout`` seconds.

        The GIL is released. Signal handlers run. Raises as ``poll``.
        """

    def _aim(
        self, ring: object, keeper: object, address: int, frame_class: type[_FrameClass], /
    ) -> None: ...
    def _stop(self) -> None: ...
    def _failed(self, code: int) -> NoReturn: ...
