"""From the bytes of a stream, or the parts of a ZeroMQ message, to whole frames. Sans I/O.

Nothing is delivered before its END said OK and its CRC32C was found right. What contradicts the
specification is a ProtocolError; the connection is then of no more use.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.transports.codec import (
    OPEN_FRAMES_MAX,
    End,
    EndStatus,
    FrameHeader,
    Message,
    MessageSplitter,
    unpack_header,
)
from bitcoin_sprint.transports.handshake import ErrorMessage, Heartbeat, Welcome

Event = Frame | Welcome | ErrorMessage
_SEQUENCED_KINDS_END = 32


class _Open:
    """A frame that was opened and has not ended."""

    __slots__ = ("header", "payload", "wanted")

    def __init__(self, header: FrameHeader, *, wanted: bool) -> None:
        self.header = header
        self.wanted = wanted
        self.payload = bytearray()


class StreamDecoder:
    """Decodes one connection. ``feed`` it what the socket gave, then take ``events``."""

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering
        self._splitter = MessageSplitter()
        self._open: dict[int, _Open] = {}
        self.events: deque[Event] = deque()
        self.aborted = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises ProtocolError."""
        self._splitter.feed(data)
        while (message := self._splitter.next()) is not None:
            self._take(*message)

    def _take(self, kind: Message, stream: int, body: memoryview) -> None:
        if kind is Message.CHUNK:
            self._chunk(stream, body)
        elif kind is Message.FRAME:
            self._frame(stream, unpack_header(body))
        elif kind is Message.END:
            self._end(stream, End.unpack(body))
        elif kind is Message.WELCOME:
            self._welcome(Welcome.unpack(body))
        elif kind is Message.ERROR:
            self.events.append(ErrorMessage.unpack(body))
        else:
            raise ProtocolError(f"{kind.name} from a server")

    def _welcome(self, welcome: Welcome) -> None:
        # At once: frames may follow in the same bytes, and what is lost before them is to show.
        self._numbering.welcomed("blocks", Kind.HEADER, welcome.blocks)
        self._numbering.welcomed("tx", Kind.TX, welcome.tx)
        self.events.append(welcome)

    def _frame(self, stream: int, header: FrameHeader) -> None:
        if stream in self._open:
            raise ProtocolError(f"FRAME on stream {stream}, which is open")
        if len(self._open) >= OPEN_FRAMES_MAX:
            raise ProtocolError(f"more than {OPEN_FRAMES_MAX} frames open at once")
        sequenced = header.kind < _SEQUENCED_KINDS_END
        wanted = self._numbering.begun(header) if sequenced else True
        self._open[stream] = _Open(header, wanted=wanted)

    def _chunk(self, stream: int, body: memoryview) -> None:
        frame = self._opened(stream, "CHUNK")
        if len(frame.payload) + len(body) > frame.header.length:
            raise ProtocolError(f"more than the {frame.header.length} bytes that FRAME announced")
        # Grows as bytes arrive: what a header merely claims costs no memory.
        frame.payload += body

    def _end(self, stream: int, end: End) -> None:
        frame = self._opened(stream, "END")
        del self._open[stream]
        header = frame.header
        if end.status is not EndStatus.OK:
            self.aborted += 1
            if frame.wanted and header.kind < _SEQUENCED_KINDS_END:
                self._numbering.aborted(header)
            return
        check_payload(header, frame.payload, end.crc32c)
        if header.kind == Kind.HEARTBEAT:
            for position in Heartbeat.unpack(frame.payload).positions:
                self._numbering.beat(position)
        elif header.kind < _SEQUENCED_KINDS_END and frame.wanted:
            self._numbering.delivered(header)
            self.events.append(_finished(header, frame.payload, end))

    def _opened(self, stream: int, message: str) -> _Open:
        frame = self._open.get(stream)
        if frame is None:
            raise ProtocolError(f"{message} on stream {stream}, which is not open")
        return frame


class ZmqDecoder:
    """Decodes native topics: parts are topic, frame header, payload, END record."""

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering

    def decode(self, parts: Sequence[bytes]) -> Frame | None:
        """The frame in a message, None for a heartbeat. Raises ProtocolError."""
        if len(parts) != 4:
            raise ProtocolError(f"message of {len(parts)} parts, expected 4")
        _topic, head, payload, tail = parts
        header, end = unpack_header(head), End.unpack(tail)
        check_payload(header, payload, end.crc32c)
        if header.kind == Kind.HEARTBEAT:
            for position in Heartbeat.unpack(payload).positions:
                self._numbering.beat(position)
            return None
        if header.kind >= _SEQUENCED_KINDS_END:
            return None
        if not self._numbering.begun(header):
            return None
        self._numbering.delivered(header)
        return _finished(header, payload, end)


def check_payload(header: FrameHeader, payload: bytes | bytearray, stated: int) -> None:
    """Raise ProtocolError unless the payload is as long as announced and its CRC32C is right."""
    if len(payload) != header.length:
        raise ProtocolError(f"END after {len(payload)} of {header.length} bytes")
    actual = crc32c(payload)
    if actual != stated:
        raise ProtocolError(
            f"frame {header.sequence} with CRC32C {actual:#010x}, END states {stated:#010x}"
        )


def _finished(header: FrameHeader, payload: bytes | bytearray, end: End) -> Frame:
    view = memoryview(payload).toreadonly()
    return Frame.of(header, view, flags=end.flags, received_ns=time.time_ns())
