"""Message numbers tell loss from restart, and a line reads its socket in order and in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import zmq

from bitcoin_sprint.ingest import zmq_line
from bitcoin_sprint.ingest.zmq_line import Continuity, Step, TopicNumbers, ZmqLine

FULL = 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("numbers", "last_step"),
    [
        ([7], Step(Continuity.FIRST, 0)),
        ([7, 8], Step(Continuity.NEXT, 0)),
        ([FULL, 0], Step(Continuity.NEXT, 0)),
        ([7, 9], Step(Continuity.GAP, 1)),
        ([FULL - 1, 3], Step(Continuity.GAP, 4)),
        ([0, 1 << 31], Step(Continuity.GAP, (1 << 31) - 1)),
        ([7, 0], Step(Continuity.RESTART, 0)),
        ([7, 7], Step(Continuity.RESTART, 7)),
        ([5_000, 12], Step(Continuity.RESTART, 12)),
    ],
)
def test_a_number_tells_how_it_follows(numbers: list[int], last_step: Step) -> None:
    topic = TopicNumbers()
    for number in numbers:
        step = topic.note(number)
    assert step == last_step
    assert topic.messages == len(numbers)
    assert topic.lost == last_step.lost
    assert topic.gaps == (last_step.continuity is Continuity.GAP)
    assert topic.restarts == (last_step.continuity is Continuity.RESTART)


def test_a_step_tells_whether_the_connection_broke_before_it() -> None:
    topic = TopicNumbers()
    topic.note(5)
    topic.is_after_break = True
    assert topic.note(0) == Step(Continuity.RESTART, 0, after_break=True)
    assert topic.note(9) == Step(Continuity.GAP, 8, after_break=False)


class Heard:
    """Keeps what a line tells."""

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.steps: list[Step] = []
        self.ups = 0
        self.downs = 0

    def on_line_up(self, line: ZmqLine) -> None:  # noqa: ARG002
        self.ups += 1

    def on_line_down(self, line: ZmqLine) -> None:  # noqa: ARG002
        self.downs += 1

    def on_loss(self, line: ZmqLine, topic: bytes, step: Step) -> None:  # noqa: ARG002
        self.steps.append(step)

    def on_message(self, line: ZmqLine, topic: bytes, body: bytes | memoryview) -> None:  # noqa: ARG002
        self.messages.append((topic, bytes(body)))


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(0)


async def eventually(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


on_both_loops = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@on_both_loops
async def test_a_burst_longer_than_one_turn_is_read_whole_and_in_order(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq_line, "_TURN_MESSAGES_MAX", 7)
    publisher = context.socket(zmq.XPUB)
    publisher.setsockopt(zmq.SNDHWM, 0)
    publisher.bind("tcp://127.0.0.1:*")
    heard = Heard()
    line = ZmqLine(context, publisher.getsockopt_string(zmq.LAST_ENDPOINT), (b"rawtx",), heard)
    line.open()
    line.open()  # a second time does nothing
    await eventually(lambda: publisher.poll(0) and publisher.recv() == b"\x01rawtx")
    sent = [b"%d" % number for number in range(1_000)]
    for number, body in enumerate(sent):
        publisher.send_multipart([b"rawtx", body, number.to_bytes(4, "little")])
    await eventually(lambda: len(heard.messages) == 1_000)
    assert [body for _, body in heard.messages] == sent
    assert heard.ups == 1
    assert not heard.steps
    line.close()
    line.close()


@on_both_loops
async def test_what_is_not_cores_is_counted_and_passed_over(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    publisher = context.socket(zmq.XPUB)
    publisher.bind("tcp://127.0.0.1:*")
    heard = Heard()
    topics = (b"rawblock", b"rawtx")
    line = ZmqLine(context, publisher.getsockopt_string(zmq.LAST_ENDPOINT), topics, heard)
    line.open()
    wanted = {b"\x01" + topic for topic in topics}
    await eventually(lambda: publisher.poll(0) and (wanted.discard(publisher.recv()) or not wanted))
    number = bytes(4)
    for message in (
        [b"rawtx"],
        [b"rawtx", b"body"],
        [b"rawtx", b"body", b"\x00"],
        [b"rawtx", b"body", number, b"more"],
        [b"rawtxs", b"body", number],
        [b"rawblock", b"body"],
        [b"rawblock", b"good", number],
    ):
        publisher.send_multipart(message)
    await eventually(lambda: heard.messages)
    assert heard.messages == [(b"rawblock", b"good")]
    assert line.malformed_count == 6
    line.close()


@on_both_loops
async def test_a_broken_connection_is_told_and_mended(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    publisher = context.socket(zmq.PUB)
    publisher.bind("tcp://127.0.0.1:*")
    address = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
    heard = Heard()
    line = ZmqLine(context, address, (b"rawtx",), heard)
    line.open()
    await eventually(lambda: line.is_up)
    publisher.close(0)
    await eventually(lambda: heard.downs == 1)
    assert not line.is_up
    again = context.socket(zmq.PUB)

    def bound() -> bool:
        try:
            again.bind(address)
        except zmq.ZMQError:
            return False
        return True

    await eventually(bound)
    await eventually(lambda: heard.ups == 2)
    line.close()


@on_both_loops
async def test_an_address_that_is_none_is_an_error_and_leaves_nothing(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    line = ZmqLine(context, "tcp://", (b"rawtx",), Heard())
    with pytest.raises(zmq.ZMQError):
        line.open()
    assert not line.is_open
