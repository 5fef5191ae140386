"""A process's end of the line to its supervisor, and what happens when that is gone.

One thread waits here for life: on the line, and at the address where a successor would come. It
only ever sleeps in poll(2), so it costs the process nothing. Who comes is the supervisor if it is
the process that holds the instance's lock; anybody else is sent away, and changes nothing.

Descriptors: a relay may have used up all that the host allows. Some are held in spare for the
moment of adoption, so that it costs no subscriber.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from bitcoin_sprint.config import Config, format_duration
from bitcoin_sprint.control.channel import (
    MESSAGE_BYTES_MAX,
    VERSION,
    Adoption,
    Answer,
    Identity,
    Inquiry,
    Message,
    Order,
    Peer,
    Reload,
    Reply,
    address_of,
    encode,
    peer_of,
    started_ticks,
)
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.metrics import CountersView

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_OUTPUTS: Final = 2
_SPARE: Final = 1 + _OUTPUTS
"""Descriptors that an adoption takes: the line, and what comes over it."""
_NO_DESCRIPTOR_S: Final = 0.1


class ChildEnd:
    """The process's end of the line. ``watch`` starts its thread; replies may come from any."""

    def __init__(self, descriptor: int) -> None:
        """Take over an inherited socket."""
        self._line: socket.socket | None = socket.socket(fileno=descriptor)
        self._line.setblocking(True)
        os.set_inheritable(descriptor, False)
        self._received = b""
        self._sending = threading.Lock()
        self._answered = False
        self._ready = False
        self._listener: socket.socket | None = None
        self._orphan_since: float | None = None
        self._reloads: list[Callable[[Config], None]] = []
        self._closing = False
        self._spare: list[int] = []
        self._told_of_stranger = False
        self._started_ticks = started_ticks(os.getpid())
        self._thread = threading.Thread(target=self._watch, name="supervisor-watch", daemon=True)

    def receive_order(self) -> Order:
        """Wait for the order; SprintError when the supervisor is gone before it came."""
        order = self._receive()
        if not isinstance(order, Order):
            raise SprintError("the supervisor went away before it said what to do")
        self._order = order
        self._config = order.config
        return order

    def say_ready(self) -> None:
        """Tell the supervisor that this process serves. Never raises: it may just have gone."""
        self._ready = True
        self._answer(Answer(ready=True))

    def say_failed(self, error: str) -> None:
        """Tell the supervisor why this process cannot serve; nothing once it was ready."""
        if not self._answered:
            self._answer(Answer(ready=False, error=error))

    @property
    def answered(self) -> bool:
        """Whether the supervisor has had its answer."""
        return self._answered

    def on_reload(self, take: Callable[[Config], None]) -> None:
        """Have ``take`` called, in this end's thread, with each configuration that comes."""
        self._reloads.append(take)

    def watch(self) -> None:
        """From now on obey the supervisor, and stop (SIGTERM to ourselves) or wait for its
        successor when it goes, as the order says."""
        if self._order.stays:
            self._listen()
        self._thread.start()

    def close(self) -> None:
        """Close this end, and end its thread."""
        self._closing = True
        ends = [each for each in (self._line, self._listener) if each is not None]
        for each in ends:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if self._thread.is_alive():
            self._thread.join()
        for each in ends:
            each.close()
        self._release_spare()

    # ---- the thread ------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            _log.exception("the line to the supervisor broke: stopping")
        if not self._closing:
            os.kill(os.getpid(), signal.SIGTERM)

    def _turn(self) -> bool:
        """Wait for the next thing to happen; False when it is time to stop."""
        ready = self._await()
        if self._closing:
            return False
        if ready is None:
            waited = format_duration(self._config.control.orphan_timeout_ns)
            _log.warning("no supervisor came within %s: stopping", waited)
            return False
        if ready is self._listener:
            self._welcome()
            return True
        message = self._receive()
        if message is not None:
            self._obey(message)
            return True
        return self._lose_supervisor()

    def _await(self) -> socket.socket | None:
        """Return the socket on which something comes; None when nobody came in time."""
        poll = select.poll()
        sockets = {each.fileno(): each for each in (self._line, self._listener) if each is not None}
        for descriptor in sockets:
            poll.register(descriptor, select.POLLIN)
        patience_ms = None
        if self._orphan_since is not None:
            timeout_s = self._config.control.orphan_timeout_ns / 1e9
            waited_s = time.monotonic() - self._orphan_since
            patience_ms = max(0, int(1000 * (timeout_s - waited_s)) + 1)
        happened = poll.poll(patience_ms)
        # The line first: what the old supervisor still said comes before its successor.
        return min((sockets[fd] for fd, _ in happened), key=self._is_listener, default=None)

    def _is_listener(self, candidate: socket.socket) -> bool:
        return candidate is self._listener

    def _lose_supervisor(self) -> bool:
        """Note that the supervisor has gone; whether this process stays.

        One that does not serve yet goes: its successor would be started beside it.
        """
        self._drop_line()
        self._hold_spare()
        timeout_ns = self._config.control.orphan_timeout_ns
        if self._listener is None or not timeout_ns or not self._ready:
            return False
        self._orphan_since = time.monotonic()
        _log.warning(
            "the supervisor has gone: serving on, and stopping in %s unless another comes",
            format_duration(timeout_ns),
        )
        return True

    def _welcome(self) -> None:
        """Take a new supervisor's line; anybody else is sent away."""
        assert self._listener is not None
        self._release_spare()
        try:
            line, _ = self._listener.accept()
        except OSError:
            time.sleep(_NO_DESCRIPTOR_S)  # whoever knocks is still there: no turning meanwhile
            return
        peer = peer_of(line)
        if peer.uid != os.geteuid() or not self._holds_lock(peer):
            line.close()
            self._hold_spare()
            if not self._told_of_stranger:
                self._told_of_stranger = True  # anybody may knock, any number of times
                _log.warning("pid %d of user %d is no sprintd of ours and was sent away", *peer)
            return
        self._drop_line()
        self._line = line
        self._orphan_since = None
        _log.info("another supervisor took over", extra={"supervisor_pid": peer.pid})

    def _holds_lock(self, peer: Peer) -> bool:
        """Whether this is the process that writes the instance's ``sprintd`` counters."""
        with contextlib.suppress(SprintError):
            view = CountersView.attach(self._config.instance, "sprintd")
            with contextlib.closing(view):
                pid, _ = view.last_heartbeat()
                return pid == peer.pid and view.writer_alive()
        return False

    def _obey(self, message: Message) -> None:
        if isinstance(message, Inquiry):
            self._send(self._identity())
        elif isinstance(message, Adoption | Reload):
            self._config = message.config
            if isinstance(message, Adoption):
                _note_journal(message.journal_stream)
            self._hold_spare()
            for take in self._reloads:
                try:
                    take(message.config)
                except Exception:
                    _log.exception("could not take the new configuration")

    def _identity(self) -> Identity:
        return Identity(
            pid=os.getpid(),
            started_ticks=self._started_ticks,
            instance=self._order.config.instance,
            role=self._order.role,
            version=VERSION,
            digest=self._order.digest,
            ready=self._ready,
        )

    # ---- the wire --------------------------------------------------------------------------

    def _listen(self) -> None:
        """Open the address for successors; without it this process goes with its supervisor."""
        address = address_of(self._order.config.instance, self._order.role)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            _log.warning(
                "cannot listen at @%s (%s): this process stops when its supervisor does",
                address[1:].decode(),
                error.strerror,
            )
            return
        listener.setblocking(False)
        self._listener = listener
        self._hold_spare()

    def _hold_spare(self) -> None:
        """Have the spare descriptors, as far as there are any."""
        with contextlib.suppress(OSError):
            while self._listener is not None and len(self._spare) < _SPARE:
                self._spare.append(os.eventfd(0, os.EFD_CLOEXEC))

    def _release_spare(self) -> None:
        while self._spare:
            os.close(self._spare.pop())

    def _receive(self) -> Message | None:
        """Return the next message; None when the supervisor is gone, or says nonsense."""
        assert self._line is not None
        while b"\n" not in self._received:
            try:
                piece, outputs, _, _ = socket.recv_fds(self._line, 65_536, _OUTPUTS)
            except OSError:
                return None
            _write_to(outputs)
            if not piece or len(self._received) > MESSAGE_BYTES_MAX:
                return None
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        with contextlib.suppress(msgspec.DecodeError):
            message: Message = msgspec.json.decode(line, type=Message)
            return message
        return None

    def _drop_line(self) -> None:
        with self._sending:
            if self._line is not None:
                self._line.close()
            self._line = None
            self._received = b""

    def _answer(self, answer: Answer) -> None:
        self._answered = True
        self._send(answer)

    def _send(self, reply: Reply) -> None:
        with self._sending, contextlib.suppress(OSError):
            if self._line is not None:
                self._line.sendall(encode(reply))


def _note_journal(stream: str) -> None:
    """Take over what the service manager says of our outputs; where nothing changes the
    environment stays untouched, for other threads read it."""
    if os.environ.get("JOURNAL_STREAM", "") != stream:
        os.environ["JOURNAL_STREAM"] = stream


def _write_to(outputs: list[int]) -> None:
    """Take these descriptors for standard output and error output, if they came."""
    for ours, given in zip((1, 2), outputs, strict=False):
        os.dup2(given, ours)
    for given in outputs:
        os.close(given)
