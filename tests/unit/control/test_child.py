"""A process of the engine, from its order to its exit code."""

import socket

import msgspec
import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import child
from bitcoin_sprint.control.channel import Answer, Order, encode
from bitcoin_sprint.errors import HostError
from bitcoin_sprint.metrics import counters


class _Room:
    """Stands for a room's ``process`` module."""

    def __init__(self, error=None, ready_first=False):
        self.error, self.ready_first, self.calls = error, ready_first, []

    def main(self, config, *rest):
        tier = [each for each in rest if isinstance(each, str)]
        self.calls.append((config.instance, *tier))
        if self.ready_first:
            rest[len(tier)]()
        if self.error:
            raise self.error


@pytest.fixture
def run(monkeypatch):
    """Run a role with a room; return the exit code and the answer."""

    def running(role, room, **keys):
        ours, theirs = socket.socketpair()
        ours.sendall(encode(Order(role, load(None, {"instance": "x", **keys}))))
        # The order is all that this supervisor says; it stays until the test ends.
        monkeypatch.setattr(child.ChildEnd, "watch", lambda _self: None)
        monkeypatch.setattr(counters, "_process_labels", {})  # ours, not the tests' process's
        monkeypatch.setattr(child.logs, "configure", lambda *_: None)
        monkeypatch.setattr(child.importlib, "import_module", lambda _name: room)
        code = child.main([role, str(theirs.detach())])
        ours.setblocking(False)
        try:
            return code, msgspec.json.decode(ours.recv(4096), type=Answer)
        except BlockingIOError:
            return code, None
        finally:
            ours.close()

    return running


def test_a_relay_is_told_its_tier(run):
    room = _Room(ready_first=True)
    code, answer = run("relay-turbo", room)
    assert room.calls == [("x", "turbo")]
    assert (code, answer.ready) == (0, True)


def test_others_get_the_configuration_alone(run):
    room = _Room(ready_first=True)
    assert run("ingest", room, optimize_system=False)[0] == 0
    assert room.calls == [("x",)]


def test_the_reason_why_it_cannot_serve_goes_to_the_supervisor(run, caplog):
    code, answer = run("ingest", _Room(HostError("/dev/shm is full")))
    assert code == 3
    assert answer.error == "/dev/shm is full"
    assert not caplog.records


def test_an_error_once_it_serves_is_logged(run, caplog):
    code, answer = run("ingest", _Room(HostError("/dev/shm is full"), ready_first=True))
    assert (code, answer.ready) == (3, True)
    assert caplog.messages == ["/dev/shm is full"]


def test_a_fault_of_ours_is_one_log_line_and_exit_code_1(run, caplog):
    code, _ = run("ingest", _Room(RuntimeError("boom")))
    assert code == 1
    assert caplog.messages == ["ingest failed"]


def test_without_a_supervisor_it_ends_quietly(capfd):
    ours, theirs = socket.socketpair()
    ours.close()
    assert child.main(["ingest", str(theirs.detach())]) == 1
    assert capfd.readouterr() == ("", "")
