"""A Bitcoin Core node as a source: its ZeroMQ topics, and RPC to fill what they leave out.

Any of ``rawblock hashblock rawtx hashtx sequence`` will do, over any number of addresses; blocks
come from ``rawblock``, or by RPC after ``hashblock`` or ``sequence`` alone. Without RPC the feed
works too, but holes stay: bodies and headers then come from other sources.

How each failure is met
- Message numbers leave a hole, or begin anew (the node restarted), or the connection broke: tip and
  mempool are compared by RPC and the difference is said afterwards (``node_resync``). Meanwhile
  the node's own words wait (``node_order``).
- A notifier died without a sign (Core drops one whose sending failed once): each few seconds the
  node's tip is compared with what ZeroMQ said. While it is behind, RPC is asked twice a second.
- The node is down, of another network, or refuses our credentials: logged once when it begins and
  once when it ends; retried with a jittered, growing delay. ZeroMQ goes on without RPC, but
  nothing is taken from a node of another network.
- A topic that comes by two addresses is taken from one of them.

One asyncio thread. The feed only speaks to the ``Sink``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import zmq

from bitcoin_sprint.chains import Network
from bitcoin_sprint.config.schema import NodeConfig
from bitcoin_sprint.episode import Episode
from bitcoin_sprint.errors import ConfigError, FeedError
from bitcoin_sprint.ingest.feed import Sink, Source
from bitcoin_sprint.ingest.node_fetch import NodeFetch
from bitcoin_sprint.ingest.node_order import NodeOrder
from bitcoin_sprint.ingest.node_refusals import NodeRefusals
from bitcoin_sprint.ingest.node_resync import HeaderSync, NodeResync
from bitcoin_sprint.ingest.node_rpc import ChainInfo, NodeRpc, WrongNetwork
from bitcoin_sprint.ingest.node_watch import SilenceWatch
from bitcoin_sprint.ingest.rpc import RpcClient, RpcError, RpcUnauthorized
from bitcoin_sprint.ingest.source_state import SourceState
from bitcoin_sprint.ingest.zmq_line import Continuity, Step, ZmqLine
from bitcoin_sprint.ingest.zmq_messages import NodeMessages
from bitcoin_sprint.ingest.zmq_topics import (
    BLOCK_TOPICS,
    RAWTX,
    SEQUENCE,
    TOPICS,
    NodeTopics,
)

POLL_SECONDS: Final = 5.0
"""How often the node's tip is compared with what ZeroMQ said."""
SILENT_POLL_SECONDS: Final = 0.5
"""The same while its notifiers are silent, and before they are called so."""
RETRY_SECONDS_MIN: Final = 0.25
RETRY_SECONDS_MAX: Final = 10.0
LINES_UP_SECONDS: Final = 1.0
"""How long the first connections may take before the node is asked where it stands."""
LINES_OVERDUE_SECONDS: Final = 3.0
"""How long there may be none before that is told."""
SUBSCRIBE_SECONDS: Final = 0.03
"""How long a subscription may take to be in force once the connection stands. What the node says
before that leaves no hole, so it is asked where it stands only afterwards."""
LOSS_TOLD_SECONDS: Final = 60.0
"""How long further losses are only counted after one was told."""
_ADDRESS = re.compile(r"(tcp://(\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):\d{1,5}|ipc://.+)\Z")

_log = logging.getLogger(__name__)


class ZmqFeed:
    """See the module. Make it within a running event loop."""

    def __init__(
        self,
        sink: Sink,
        source: Source,
        node: NodeConfig,
        network: Network,
        *,
        poll_seconds: float = POLL_SECONDS,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """Raises ConfigError for addresses or RPC settings that can't be right."""
        self._sink = sink
        self._source = source
        self._network = network
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._rpc = _rpc_of(node, network)
        self._order = NodeOrder(
            sink, source, network, self._rpc.transactions if self._rpc else None
        )
        self._fetch: NodeFetch | None = None
        if self._rpc is not None:
            headers = HeaderSync(self._rpc, sink, source)
            self._refusals = NodeRefusals(self._rpc, sink, source)
            self._resync = NodeResync(self._rpc, headers, sink, source, self._order)
            self._fetch = NodeFetch(self._rpc, headers, sink, source, self._wake.set)
        self._context = context or zmq.Context.instance()
        self._lines = [ZmqLine(self._context, each, TOPICS, self) for each in node.addresses]
        for address in node.addresses:
            _check_address(address)
        self._topics = NodeTopics(node.addresses)
        self._watch = SilenceWatch()
        self._messages = NodeMessages(
            sink, source, network, self._topics, self._watch, self._order, self._fetch
        )
        self._episode = Episode[SourceState](source.name)
        self._resync_due = False
        self._is_fresh = False
        self._node_is_up = False
        self._state = SourceState.CONNECTING
        self._lines_since = 0.0
        self._loss_told_until = 0.0
        self._counts = dict.fromkeys(
            ("gaps", "messages_lost", "restarts", "connections", "fills_failed"), 0
        )

    # --- Feed -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def source(self) -> Source:
        return self._source

    @property
    def can_fetch(self) -> bool:
        return self._fetch is not None and self._fetch.is_open

    async def run(self) -> None:
        """Work until cancelled."""
        delay = 0.0
        failures = 0
        try:
            while True:
                await self._pause(delay)
                if await self._tend():
                    failures = 0
                    delay = self._poll_delay()
                else:
                    failures += 1
                    delay = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** min(failures, 10))
                    delay *= random.uniform(0.5, 1.0)
                    if self._episode.state is SourceState.WARMING_UP:
                        delay = min(delay, SILENT_POLL_SECONDS)
        finally:
            self._close()

    async def fetch_block(self, hash: bytes) -> bool:
        """Ask the node for a block by RPC."""
        if self._fetch is None or not self._fetch.is_open:
            return False
        self._fetch.block(hash)
        return True

    def snapshot(self) -> Mapping[str, Any]:
        """State and counts for the operator."""
        counts = self._counts | self._messages.counts | self._order.counts
        counts["silences"] = self._watch.episodes
        if self._fetch is not None:
            counts |= self._resync.counts
            counts["blocks_fetched"] = self._fetch.blocks_fetched
        topics: dict[str, dict[str, int]] = {}
        for line in self._lines:
            counts["malformed"] += line.malformed_count
            for topic, numbers in line.numbers.items():
                if numbers.messages:
                    entry = topics.setdefault(topic.decode(), {"messages": 0, "lost": 0})
                    entry["messages"] += numbers.messages
                    entry["lost"] += numbers.lost
        return {
            "state": self._shown_state.word,
            "up": self._node_is_up,
            "trouble": self._episode.text,
            "attempts": self._episode.attempts,
            "episodes": self._episode.count,
            "rpc": "none" if self._rpc is None else "up" if self.can_fetch else "down",
            "addresses": {line.address: line.is_up for line in self._lines},
            "topics": topics,
            "waiting": self._order.waiting_count,
            "last_message_at": self._messages.last_at,
            "counts": counts,
        }

    # --- LineSink -------------------------------------------------------------------------------

    def on_line_up(self, line: ZmqLine) -> None:  # noqa: ARG002
        """A connection stands, maybe again: what was published before is lost."""
        self._counts["connections"] += 1
        self._is_fresh = True
        if self._rpc is None:
            self._node_up(None)
            self._well(SourceState.READY)
            return
        if self._episode.state is not None and not self.can_fetch:
            self._node_up(None)
        self._ask_resync()

    def on_line_down(self, line: ZmqLine) -> None:
        """A connection broke."""
        self._topics.forget(line)
        self._lines_since = asyncio.get_running_loop().time()
        if self._rpc is None and not self._any_line_up():
            self._episode.fail(SourceState.DOWN, self._no_lines(), is_attempt=False)
            self._node_down()
        self._wake.set()

    def on_loss(self, line: ZmqLine, topic: bytes, step: Step) -> None:  # noqa: ARG002
        """Message numbers left a hole."""
        if step.continuity is Continuity.RESTART:
            self._counts["restarts"] += 1
        else:
            self._counts["gaps"] += 1
        self._counts["messages_lost"] += step.lost
        self._tell_loss(step, topic)
        # What was lost while the connection was down was asked for when it stood again. And with
        # ``sequence`` whole, each lost body is missed, and fetched, by itself.
        if not step.after_break and (topic == SEQUENCE or not self._topics.is_live(SEQUENCE)):
            if self._rpc is not None and step.continuity is Continuity.RESTART:
                self._resync.is_new_process = True
            self._ask_resync()

    def _tell_loss(self, step: Step, topic: bytes) -> None:
        """Log that messages went missing, at most once a while: a node may drop all the time."""
        now = asyncio.get_running_loop().time()
        if step.lost and now >= self._loss_told_until:
            self._loss_told_until = now + LOSS_TOLD_SECONDS
            _log.info(
                "%s: %d messages of %s are missing; they are made up for by RPC, if it is there",
                self.name,
                step.lost,
                topic.decode(),
                extra={"source": self.name, "lost_in_all": self._counts["messages_lost"]},
            )

    def on_message(self, line: ZmqLine, topic: bytes, body: bytes | memoryview) -> None:
        """A message of one of Core's topics."""
        self._messages.take(line, topic, body)

    # --- by RPC ---------------------------------------------------------------------------------

    async def _tend(self) -> bool:
        """See that all is well and mend what is not; False: try again soon."""
        if self._rpc is None or self._fetch is None:
            return self._tend_lines()
        try:
            info = await self._rpc.chain_info()
            self._topics.update(await self._rpc.notifiers())
            self._order.expects_bodies = self._topics.is_live(RAWTX)
        except WrongNetwork as error:
            self._refuse_node(error)
            return False
        except FeedError as error:
            self._on_rpc_failure(error)
            return False
        self._fetch.is_open = True
        try:
            await self._catch_up(info, self._fetch)
            await self._resync.prune()
            if self._source.trusted:
                await self._refusals.look(info)
        except FeedError as error:
            self._on_rpc_failure(error)
            return False
        if self._lack_lines():
            self._episode.fail(SourceState.NO_ZMQ, f"{self._no_lines()}; polled by RPC")
        elif self._watch.is_silent:
            self._episode.fail(SourceState.SILENT, f"{self._silence()}; its tip is polled by RPC")
        elif self._any_line_up():
            self._well(SourceState.SYNCING if info.is_syncing else SourceState.READY)
        return True

    def _tend_lines(self) -> bool:
        """The same without RPC."""
        try:
            self._open_lines()
        except FeedError as error:
            self._episode.fail(SourceState.DOWN, str(error))
            return False
        if self._lack_lines():
            self._episode.fail(SourceState.DOWN, self._no_lines())
        self._episode.settle()
        return True

    async def _catch_up(self, info: ChainInfo, fetch: NodeFetch) -> None:
        if not self._lines[0].is_open:
            self._order.hold()
            self._resync_due = True
            self._open_lines()
            await self._lines_up()
        if self._watch.compare(info):
            self._resync_due = True
        if self._resync_due:
            self._resync_due = False
            self._order.hold()
            if self._is_fresh:
                self._is_fresh = False
                await asyncio.sleep(SUBSCRIBE_SECONDS)
            with_mempool = self._topics.is_live(SEQUENCE)
            try:
                info, wanted = await self._resync.run(with_mempool=with_mempool)
            except FeedError:
                self._resync_due = True
                raise
            self._node_is_up = True
            self._watch.told = info.best
            for hash in wanted:
                fetch.block(hash)

    def _well(self, state: SourceState) -> None:
        self._state = state
        self._episode.end()

    def _lack_lines(self) -> bool:
        """Whether no connection stands, and one had time to."""
        overdue = asyncio.get_running_loop().time() - self._lines_since > LINES_OVERDUE_SECONDS
        return overdue and not self._any_line_up()

    def _no_lines(self) -> str:
        addresses = ", ".join(line.address for line in self._lines)
        return f"no ZeroMQ connection to {addresses}; check the node's -zmqpub… and the addresses"

    def _silence(self) -> str:
        names = self._topics.names
        if names is not None and not names & BLOCK_TOPICS:
            return "publishes no blocks; give it -zmqpubsequence and -zmqpubrawblock"
        return "its ZeroMQ notifiers said nothing of its newest block"

    def _poll_delay(self) -> float:
        if self._rpc is None or not (
            self._watch.is_urgent or self._refusals.is_urgent or not self._any_line_up()
        ):
            return self._poll_seconds
        return min(self._poll_seconds, SILENT_POLL_SECONDS)

    def _on_rpc_failure(self, error: FeedError) -> None:
        """Go on with ZeroMQ alone."""
        self._stop_fetching()
        self._episode.fail(*self._trouble_of(error))
        if self._order.is_held:
            self._counts["fills_failed"] += 1
            self._order.release()
        with contextlib.suppress(FeedError):  # there is trouble already, and it is tried again
            self._open_lines()
        if self._any_line_up():
            self._node_up(None)
        else:
            self._resync_due = True  # it comes back by RPC, whether ZeroMQ does or not
            self._node_down()

    @staticmethod
    def _trouble_of(error: FeedError) -> tuple[SourceState, str]:
        if isinstance(error, RpcUnauthorized):
            return SourceState.UNAUTHORIZED, str(error)
        if isinstance(error, RpcError) and error.code == RpcError.WARMING_UP:
            return SourceState.WARMING_UP, f"is starting: {error}"
        return SourceState.DOWN, str(error)

    @property
    def _shown_state(self) -> SourceState:
        """DOWN is RPC's word alone while ZeroMQ goes on; the trouble is the same one."""
        state = self._episode.state or self._state
        return SourceState.NO_RPC if state is SourceState.DOWN and self._any_line_up() else state

    def _refuse_node(self, error: WrongNetwork) -> None:
        self._episode.fail(SourceState.WRONG_NETWORK, str(error))
        self._stop_fetching()
        self._close_lines()
        self._node_down()

    def _ask_resync(self) -> None:
        self._resync_due = True
        if self._rpc is None:
            return
        if self.can_fetch:
            self._order.hold()
        self._wake.set()

    def _stop_fetching(self) -> None:
        if self._fetch is not None:
            self._fetch.is_open = False

    # --- connections and state ------------------------------------------------------------------

    def _open_lines(self) -> None:
        if not self._lines[0].is_open:
            self._lines_since = asyncio.get_running_loop().time()
        for line in self._lines:
            try:
                line.open()
            except zmq.ZMQError as error:
                raise FeedError(f"ZeroMQ: {line.address}: {error.strerror}") from error

    def _close_lines(self) -> None:
        for line in self._lines:
            line.close()
            self._topics.forget(line)

    async def _lines_up(self) -> None:
        """Wait for the connections, a bounded time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LINES_UP_SECONDS
        while not all(line.is_up for line in self._lines) and loop.time() < end:
            self._wake.clear()
            await self._pause(end - loop.time())

    def _any_line_up(self) -> bool:
        return any(line.is_up for line in self._lines)

    def _node_up(self, tip: bytes | None) -> None:
        if not self._node_is_up:
            self._node_is_up = True
            self._sink.on_node_connected(self._source, tip)

    def _node_down(self) -> None:
        if self._node_is_up:
            self._node_is_up = False
            self._sink.on_node_lost(self._source)

    async def _pause(self, seconds: float) -> None:
        """Wait until woken, or as long as this."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _close(self) -> None:
        self._order.close()
        self._close_lines()
        if self._rpc is not None and self._fetch is not None:
            self._fetch.close()
            self._rpc.client.close()
        self._node_down()


def _rpc_of(node: NodeConfig, network: Network) -> NodeRpc | None:
    if not node.rpc_url:
        return None
    client = RpcClient(
        node.rpc_url,
        cookie=Path(node.rpc_cookie) if node.rpc_cookie else None,
        user=node.rpc_user,
        password=node.rpc_password,
    )
    return NodeRpc(client, network)


def _check_address(address: str) -> None:
    if not _ADDRESS.match(address):
        raise ConfigError(
            f"ingest.zmq.addresses: {address!r} is no ZeroMQ address of the form "
            "tcp://127.0.0.1:28332"
        )
