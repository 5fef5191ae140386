"""A process's end of the line, and what it does when its supervisor is gone."""

import contextlib
import importlib.metadata
import logging
import os
import resource
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import child_end
from bitcoin_sprint.control.channel import (
    Adoption,
    Answer,
    Identity,
    Inquiry,
    Order,
    Peer,
    Reload,
    address_of,
    encode,
    started_ticks,
)
from bitcoin_sprint.control.child_end import ChildEnd
from bitcoin_sprint.control.placement import Seat
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.metrics import Counters

SHM = Path("/dev/shm")


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    end = ChildEnd(theirs.detach())
    yield ours, end
    end.close()
    ours.close()


@pytest.fixture
def terms():
    """The SIGTERMs that this process gets."""
    received = []
    old = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, old)


@pytest.fixture
def lock():
    """What makes this process the supervisor of the instance."""
    with contextlib.closing(Counters.create(f"test-end-{os.getpid()}", "sprintd", [])) as counters:
        yield counters


def _order(stays=False, **keys):
    instance = f"test-end-{os.getpid()}"
    keys = {key.replace("__", "."): value for key, value in keys.items()}
    return Order("ingest", load(None, {"instance": instance, **keys}), stays=stays, digest="d1")


def _ordered(line, order):
    ours, end = line
    ours.sendall(encode(order))
    end.receive_order()
    end.watch()
    return ours, end


def _eventually(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        signal.sigtimedwait([], 0.01)


def _call(order):
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(20)
    caller.connect(address_of(order.config.instance, order.role))
    return caller


def _heard(ours, kind):
    ours.settimeout(20)
    with ours.makefile("rb") as lines:
        return msgspec.json.decode(lines.readline(), type=kind)


def test_an_order_arrives_whole_with_the_configuration(line):
    ours, end = line
    seat = Seat(core=3, cpus=(0, 3), nice=5)
    order = Order("relay-turbo", load(None, {"tier": "turbo"}), seat, stays=True, digest="d")
    ours.sendall(encode(order))
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
    assert _heard(ours, Answer).ready
    assert end.answered


def test_a_reason_for_failing_is_carried_as_it_is(line):
    ours, end = line
    end.say_failed("port 7403 is taken “so”\nand more")
    answer = _heard(ours, Answer)
    assert not answer.ready
    assert answer.error == "port 7403 is taken “so”\nand more"


def test_answering_a_supervisor_that_has_gone_is_no_error(line):
    ours, end = line
    ours.close()
    end.say_ready()


@pytest.mark.parametrize("order", [_order(), _order(stays=True, control__orphan_timeout="0s")])
def test_when_the_supervisor_goes_a_process_that_does_not_stay_stops(line, terms, order):
    ours, end = _ordered(line, order)
    end.say_ready()
    ours.close()
    _eventually(lambda: terms)
    assert terms == [signal.SIGTERM]


def test_a_process_that_does_not_serve_yet_goes_with_its_supervisor(line, terms):
    ours, _end = _ordered(line, _order(stays=True))
    ours.close()
    _eventually(lambda: terms)


def test_a_process_that_stays_waits_for_another_and_stops_when_none_comes(line, terms, caplog):
    with caplog.at_level(logging.WARNING):
        ours, end = _ordered(line, _order(stays=True, control__orphan_timeout="300ms"))
        end.say_ready()
        ours.close()
        _eventually(lambda: caplog.messages)
        assert not terms
        _eventually(lambda: terms)
    assert caplog.messages == [
        "the supervisor has gone: serving on, and stopping in 300ms unless another comes",
        "no supervisor came within 300ms: stopping",
    ]


@pytest.mark.usefixtures("lock")
def test_another_supervisor_is_told_who_it_is_and_obeyed(line, terms):
    order = _order(stays=True, control__orphan_timeout="1s")
    ours, end = _ordered(line, order)
    end.say_ready()
    taken = []
    end.on_reload(taken.append)
    ours.close()
    with _call(order) as caller:
        caller.sendall(encode(Inquiry()))
        identity = _heard(caller, Identity)
        assert (identity.pid, identity.started_ticks) == (os.getpid(), started_ticks(os.getpid()))
        assert (identity.instance, identity.role) == (order.config.instance, "ingest")
        assert (identity.digest, identity.ready) == ("d1", True)
        other = load(None, {"log.level": "error"})
        caller.sendall(encode(Reload(other)))
        _eventually(lambda: taken)
        assert taken == [other]
        assert not terms
    # And when that one goes, the wait begins anew, by its configuration.
    _eventually(lambda: end._orphan_since is not None)
    assert end._config == other
    assert not terms


@pytest.mark.usefixtures("lock")
def test_an_adopted_process_writes_where_its_new_supervisor_does(
    line, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("JOURNAL_STREAM", "old")
    order = _order(stays=True)
    _ours, end = _ordered(line, order)
    end.say_ready()
    taken = []
    end.on_reload(taken.append)
    with _call(order) as caller, (tmp_path / "log").open("wb") as log, capfd.disabled():
        kept = [os.dup(fd) for fd in (1, 2)]
        try:
            message = encode(Adoption(order.config, "8:99"))
            socket.send_fds(caller, [message], [log.fileno(), log.fileno()])
            _eventually(lambda: taken)
            os.write(1, b"out ")
            os.write(2, b"err")
        finally:
            for fd, original in zip((1, 2), kept, strict=True):
                os.dup2(original, fd)
                os.close(original)
    assert taken == [order.config]
    assert (tmp_path / "log").read_bytes() == b"out err"
    assert os.environ["JOURNAL_STREAM"] == "8:99"


@pytest.mark.usefixtures("terms")
@pytest.mark.parametrize("who", ["another user", "another process", "nobody with the lock"])
def test_who_does_not_hold_the_lock_is_sent_away_and_told_of_once(
    line, lock, monkeypatch, caplog, who
):
    order = _order(stays=True)
    ours, _end = _ordered(line, order)
    peer = Peer(os.getpid(), os.geteuid() + (who == "another user"))
    if who == "another process":
        peer = Peer(os.getppid(), os.geteuid())
    if who == "nobody with the lock":
        lock.close(unlink=False)
    monkeypatch.setattr(child_end, "peer_of", lambda _line: peer)
    for _ in range(3):
        with _call(order) as stranger:
            assert stranger.recv(1) == b""
    ours.sendall(encode(Inquiry()))
    identity = _heard(ours, Identity)
    assert (identity.pid, identity.ready) == (os.getpid(), False)
    (SHM / lock.name[1:]).unlink(missing_ok=True)
    told = f"pid {peer.pid} of user {peer.uid} is no sprintd of ours and was sent away"
    assert caplog.messages == [told]


def test_its_version_is_that_of_the_code_that_runs(line, monkeypatch):
    ours, _end = _ordered(line, _order())
    real = importlib.metadata.version("bitcoin-sprint")
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "9.9")  # it was upgraded
    ours.sendall(encode(Inquiry()))
    assert _heard(ours, Identity).version == real


@contextlib.contextmanager
def _full_descriptor_table():
    """Take every descriptor that this process may have.

    The limit stands above all that are open: one that is let go of below it can be had again.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 32), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.eventfd(0, os.EFD_CLOEXEC))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("lock")
def test_a_process_without_a_descriptor_left_is_adopted_again_and_again(line, monkeypatch):
    outputs = []

    def close(given):
        outputs.append(len(given))
        for descriptor in given:
            os.close(descriptor)

    monkeypatch.setattr(child_end, "_write_to", close)
    order = _order(stays=True)
    ours, end = _ordered(line, order)
    end.say_ready()
    taken = []
    end.on_reload(taken.append)
    callers = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    with _full_descriptor_table():
        ours.close()
        for count, caller in enumerate(callers, 1):
            caller.settimeout(20)
            caller.connect(address_of(order.config.instance, order.role))
            caller.sendall(encode(Inquiry()))
            assert msgspec.json.decode(caller.recv(4096), type=Identity).ready
            socket.send_fds(caller, [encode(Adoption(order.config))], [1, 2])
            _eventually(lambda count=count: len(taken) == count)
            caller.close()
    assert [count for count in outputs if count] == [2, 2, 2]


def test_where_the_address_is_taken_the_process_goes_with_its_supervisor(line, terms, caplog):
    order = _order(stays=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind(address_of(order.config.instance, order.role))
        ours, end = _ordered(line, order)
        end.say_ready()
        ours.close()
        _eventually(lambda: terms)
    assert "this process stops when its supervisor does" in caplog.messages[0]
