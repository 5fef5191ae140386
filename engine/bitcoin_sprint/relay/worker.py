"""One tier's worker: one thread, one epoll loop, from the rings to that tier's subscribers.

A turn of the loop: take events; index what the rings have, ``blocks`` first; let every stream
subscriber that is behind have its turn (``blocks`` is looked at again after each); then the work
that may wait a moment: bulky ZeroMQ messages, a slice of the drop-in topics, the log. With nothing
to do it sleeps in epoll until a ring's eventfd, a socket or the clock wakes it; spinning, it polls.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import time
from collections import deque
from pathlib import Path
from typing import Final

import msgspec

from bitcoin_sprint.episode import Episode
from bitcoin_sprint.errors import Closed, HostError
from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.relay.block_log import BlockLog
from bitcoin_sprint.relay.figures import Figures
from bitcoin_sprint.relay.ring_feed import RingFeed
from bitcoin_sprint.tiers import Lane, TierPolicy
from bitcoin_sprint.transports.core_topics import CoreTopics
from bitcoin_sprint.transports.descriptors import Reserve
from bitcoin_sprint.transports.stream import StreamOptions, StreamServer
from bitcoin_sprint.transports.window import Entry, Window
from bitcoin_sprint.transports.zmq_pub import ZmqPublisher

_log = logging.getLogger(__name__)

_BLOCKS_A_TURN: Final = 64
_TX_A_TURN: Final = 256
_CORE_MESSAGES_A_TURN: Final = 64
_DEFERRED_MAX: Final = 16
_EVENTS_A_TURN: Final = 512
_TICK_NS: Final = 250_000_000
_BEAT_NS: Final = 1_000_000_000
_COLLECT_NS: Final = 600_000_000_000
_TALLY_NS_PER_SUBSCRIBER: Final = 100_000


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told. ``zmq_port`` and the policy's ``stream_port`` may be 0: any free.
    ``memory_channel``: offer the rings to subscribers of this host."""

    instance: str
    network: str
    level: Level
    bind_host: str = "127.0.0.1"
    unix_path: Path | None = None
    zmq_high_water_mark: int = 20_000
    zmq_curve_secret_key: str = ""
    ring_directory: Path | None = None
    memory_channel: bool = True
    spin: bool = False


class Worker:
    """Runs in the thread that calls ``run``; ``stop`` may be called from anywhere."""

    def __init__(self, policy: TierPolicy, options: WorkerOptions) -> None:
        """Listen on the tier's ports. Raises HostError, ConfigError, WriterActive."""
        self._policy = policy
        self._options = options
        self._stopping = False
        self._new_policy: TierPolicy | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._feeds = tuple(
            RingFeed(
                options.instance,
                name,
                Window(lane, 2 * policy.buffer_frames),
                directory=options.ring_directory,
            )
            for name, lane in (("blocks", Lane.BLOCKS), ("tx", Lane.TX))
        )
        self._feed_fds: dict[int, RingFeed] = {}
        self._deferred: deque[tuple[Entry, int]] = deque()
        self._block_log = BlockLog() if policy.memory_optimised else None
        self._figures = Figures(options.instance, policy.name, {"network": options.network})
        self._zmq = ZmqPublisher(
            high_water_mark=options.zmq_high_water_mark,
            curve_secret_key=options.zmq_curve_secret_key,
        )
        self._core = CoreTopics(options.level, self._zmq.wants, self._zmq.send_core)
        self._server = StreamServer(
            policy,
            [feed.window for feed in self._feeds],
            self._epoll,
            self._figures.relay_times,
            _stream_options(options),
            on_block=self._block_log.note if self._block_log else None,
            on_short=self._run_short,
        )
        self._reserve = Reserve(f"relay-{policy.name}")
        self._attaching: Episode[str] = Episode(f"relay-{policy.name}: rings")
        self._take_policy(policy)
        self._tick_at = self._beat_at = self._tally_at = 0
        self._collect_at = time.monotonic_ns() + _COLLECT_NS
        self.stream_port = 0
        self.zmq_port = 0

    # ---- life ------------------------------------------------------------------------------

    def listen(self) -> None:
        """Open the tier's ports. Raises HostError."""
        options = self._options
        self.stream_port = self._server.listen_tcp(options.bind_host, self._policy.stream_port)
        if options.unix_path is not None:
            self._server.listen_unix(options.unix_path)
        self.zmq_port = self._zmq.bind(
            f"relay.tiers.{self._policy.name}.zmq_port", options.bind_host, self._policy.zmq_port
        )
        self._epoll.register(self._zmq.fileno(), select.EPOLLIN | select.EPOLLET)
        if self._reserve.is_short:
            self._pause()
        if self._policy.memory_optimised:
            _log.info("⚡ Starting memory-optimized sprint with tight deadlines")
        _log.info(
            "relay listens",
            extra={
                "tier": self._policy.name,
                "stream_port": self.stream_port,
                "zmq_port": self.zmq_port,
                "core_level": self._options.level.name.lower(),
                "waiting": "spin" if self._options.spin else "block",
            },
        )

    def attach(self) -> bool:
        """Attach to both rings if they exist; whether they do. Raises HostError, Corrupt."""
        fresh = False
        for feed in self._feeds:
            if not feed.attached:
                self._feed_fds = {fd: f for fd, f in self._feed_fds.items() if f is not feed}
                if not feed.try_attach():
                    return False
                self._feed_fds[feed.fileno()] = feed
                self._epoll.register(feed.fileno(), select.EPOLLIN)
                fresh = True
        if fresh:
            blocks, tx = self._feeds
            self._core.attach(blocks.ring, tx.ring)
        return True

    def run(self) -> None:
        """Serve until ``stop``. Then say goodbye and let go of everything."""
        try:
            busy = False
            while not self._stopping:
                busy = self._turn(busy)
        finally:
            self.close()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Ask ``run`` to end. Safe from signal handlers and other threads."""
        # In this order: once the flag is up, `run` may close the descriptor at any moment. It is
        # never read, so the loop keeps turning until it sees the flag.
        if not self._epoll.closed:
            os.eventfd_write(self._wake_fd, 1)
        self._stopping = True

    def set_policy(self, policy: TierPolicy) -> None:
        """Serve by other values from the next tick on: relay target, write deadline and buffer.

        Safe from other threads; the last call counts.
        """
        self._new_policy = policy

    def close(self) -> None:
        """Close every port, socket and segment. May be called again."""
        if self._epoll.closed:
            return
        self._server.close()
        self._show_figures()
        self._core.detach()
        self._zmq.close()
        self._reserve.close()
        for feed in self._feeds:
            feed.detach()
        self._figures.close()
        self._epoll.close()
        os.close(self._wake_fd)

    # ---- a turn ----------------------------------------------------------------------------

    def _turn(self, busy: bool) -> bool:
        """One turn of the loop; whether there is more to do at once."""
        now = time.monotonic_ns()
        patience = 0.0 if busy or self._options.spin else max(0, self._tick_at - now) / 1e9
        for descriptor, events in self._epoll.poll(patience, _EVENTS_A_TURN):
            feed = self._feed_fds.get(descriptor)
            if feed is not None and feed.attached:
                feed.hush()
            else:
                self._server.handle(descriptor, events)
        # Its descriptor has been hushed: what is left must not wait for another frame.
        more = self._poll_blocks()
        more |= self._poll_tx()
        more |= self._server.serve(self._poll_blocks)
        more |= self._publish_deferred()
        more |= self._advance_core()
        self._zmq.refresh()
        if self._block_log is not None:
            self._block_log.say()
        now = time.monotonic_ns()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_NS
            self._tick(now)
        return more

    def _poll_blocks(self) -> bool:
        """Index new frames of ``blocks`` and tell who waits for them; whether there were any."""
        entries = self._take(Lane.BLOCKS, _BLOCKS_A_TURN)
        for entry in entries:
            previous = self._zmq.number(entry)
            # Copying a block for ZeroMQ takes longer than sending its header to many. All of a
            # topic's messages wait together: in order.
            waits = entry.kind == Kind.BLOCK
            if waits or entry.kind == Kind.TIP:
                self._deferred.append((entry, previous))
            if not waits:
                self._publish(entry, previous)
        return bool(entries)

    def _poll_tx(self) -> bool:
        """The same for ``tx``; whether there may be more."""
        entries = self._take(Lane.TX, _TX_A_TURN)
        for entry in entries:
            self._publish(entry, self._zmq.number(entry))
        return len(entries) == _TX_A_TURN

    def _take(self, lane: Lane, limit: int) -> list[Entry]:
        """Index up to ``limit`` new frames of a ring, and wake who waits for them."""
        feed = self._feeds[lane]
        entries: list[Entry] = []
        while len(entries) < limit and (frame := feed.poll()) is not None:
            entries.append(feed.window.append(frame))
        if entries:
            self._server.wake(lane)
        return entries

    def _publish(self, entry: Entry, previous: int) -> None:
        if self._zmq.publish(entry, previous) and self._block_log is not None:
            self._block_log.note(entry, time.monotonic_ns() - entry.stamp_ns)

    def _publish_deferred(self) -> bool:
        """Publish one of the frames that ZeroMQ still has to get; whether more are left.

        More than one where many wait: the queue is bounded by what is published, not by luck.
        """
        for _ in range(max(1, len(self._deferred) - _DEFERRED_MAX)):
            if not self._deferred:
                break
            entry, previous = self._deferred.popleft()
            if entry.kind == Kind.TIP:
                self._core.tip(entry.frame)
            else:
                self._publish(entry, previous)
        return bool(self._deferred)

    def _advance_core(self) -> bool:
        try:
            return self._core.advance(_CORE_MESSAGES_A_TURN)
        except Closed:
            self._core.detach()
            return False

    # ---- want of descriptors ---------------------------------------------------------------

    def _run_short(self, reason: str) -> None:
        """The host gives no more: serve whom we have, and take nobody else."""
        self._reserve.run_short(reason)
        self._pause()

    def _pause(self) -> None:
        self._server.pause()
        self._zmq.pause()

    def _look_for_descriptors(self) -> None:
        if self._reserve.regain():
            self._server.resume()
            self._zmq.resume()

    def _follow_rings(self) -> None:
        """Attach to rings made anew; what the host refuses now is tried again at the next tick."""
        try:
            self.attach()
        except HostError as error:
            self._attaching.fail("refused", str(error))
        else:
            self._attaching.end()

    # ---- time ------------------------------------------------------------------------------

    def _tick(self, now: int) -> None:
        new, self._new_policy = self._new_policy, None
        if new is not None:
            self._take_policy(new)
        self._follow_rings()
        if self._zmq.accept_failed():
            self._run_short("ZeroMQ can't accept")
        self._server.tick()
        if now >= self._beat_at:
            self._beat_at = now + _BEAT_NS
            self._figures.beat()
            self._look_for_descriptors()
            if not self._deferred:  # it says what was sent last, not what is about to be
                self._zmq.heartbeat()
        if now >= self._collect_at and not gc.isenabled():
            self._collect_at = now + _COLLECT_NS
            gc.collect()
        if now >= self._tally_at:
            # Adding up takes longer the more there are: so it is done less often.
            self._tally_at = now + self._server.subscriber_count * _TALLY_NS_PER_SUBSCRIBER
            self._show_figures()

    def _take_policy(self, policy: TierPolicy) -> None:
        """Have the windows hold what the buffer needs, and everybody served by ``policy``."""
        self._policy = policy
        for feed in self._feeds:
            feed.window.resize(2 * policy.buffer_frames)
        self._server.set_policy(policy)
        self._figures.set("buffer_frames", policy.buffer_frames)

    def _show_figures(self) -> None:
        figures, server = self._figures, self._server
        figures.set_tally(server.tally())
        figures.set("gaps", sum(feed.window.lost for feed in self._feeds))
        figures.set("subscribers", server.subscriber_count)
        figures.set("subscribers_refused", server.refused)
        figures.set("subscribers_stalled", server.stalled)
        figures.set("buffer_used_frames", server.behind_max)
        figures.set("descriptor_shortages", self._reserve.shortages)
        figures.set("zmq_sent", self._zmq.sent)
        figures.set("zmq_bytes", self._zmq.bytes)
        figures.set("zmq_topics_wanted", self._zmq.topics_wanted)
        figures.set("zmq_lost", self._core.lost)


def _stream_options(options: WorkerOptions) -> StreamOptions:
    if not options.memory_channel:
        return StreamOptions(network=options.network)
    return StreamOptions(
        network=options.network,
        memory_instance=options.instance,
        memory_directory=str(options.ring_directory or ""),
    )
