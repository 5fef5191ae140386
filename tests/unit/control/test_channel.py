"""The line between the supervisor and a process."""

import signal
import socket

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control.channel import ChildEnd, Order, decode_answer, encode_order
from bitcoin_sprint.control.placement import Seat
from bitcoin_sprint.errors import SprintError


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    end = ChildEnd(theirs.detach())
    yield ours, end
    ours.close()
    end.close()


def test_an_order_arrives_whole_with_the_configuration(line):
    ours, end = line
    order = Order("relay-turbo", load(None, {"tier": "turbo"}), Seat(core=3, cpus=(0, 3), nice=5))
    ours.sendall(encode_order(order))
    assert end.receive_order() == order


def test_without_an_order_a_process_gives_up(line):
    ours, end = line
    ours.sendall(b'{"role":')
    ours.close()
    with pytest.raises(SprintError, match="supervisor went away"):
        end.receive_order()


def test_the_first_answer_is_the_one_that_counts(line):
    ours, end = line
    assert not end.answered
    end.say_ready()
    end.say_failed("too late to matter")
    answer = decode_answer(ours.recv(4096))
    assert answer.ready
    assert end.answered


def test_a_reason_for_failing_is_carried_as_it_is(line):
    ours, end = line
    end.say_failed("port 7403 is taken “so”\nand more")
    answer = decode_answer(ours.recv(4096))
    assert not answer.ready
    assert answer.error == "port 7403 is taken “so”\nand more"


def test_half_an_answer_is_none():
    assert decode_answer(b"") is None
    assert decode_answer(b'{"ready":tr') is None


def test_answering_a_supervisor_that_has_gone_is_no_error(line):
    ours, end = line
    ours.close()
    end.say_ready()


def test_when_the_supervisor_goes_the_process_stops_as_on_sigterm(line):
    ours, end = line
    received = []
    old = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        end.stop_with_supervisor()
        ours.close()
        while not received:
            signal.sigtimedwait([], 0.01)
    finally:
        signal.signal(signal.SIGTERM, old)
    assert received == [signal.SIGTERM]
