"""Sweeping up what killed processes left in shared memory."""

import os
import socket
import threading
from pathlib import Path

import pytest

from bitcoin_sprint.control.leftovers import sweep, sweep_sockets
from bitcoin_sprint.metrics import Counters

_SHM = Path("/dev/shm")


@pytest.fixture
def instance():
    name = f"test-left-{os.getpid()}"
    yield name
    for path in _SHM.glob(f"sprint.{name}*"):
        path.unlink()
        pytest.fail(f"left behind: {path}")


def test_what_nobody_holds_is_removed_and_named(instance, tmp_path):
    for name in ("blocks", "tx", "wake", "counters.ingest"):
        (_SHM / f"sprint.{instance}.{name}").write_bytes(b"x")
    huge = tmp_path / f"sprint.{instance}.blocks"
    huge.write_bytes(b"x")
    removed = sweep(instance, str(tmp_path))
    assert sorted(removed) == sorted(
        f"sprint.{instance}.{name}"
        for name in ("blocks", "blocks", "tx", "wake", "counters.ingest")
    )
    assert not huge.exists()
    assert sweep(instance) == []


def test_another_instances_objects_stay(instance):
    other = _SHM / f"sprint.{instance}2.blocks"
    other.write_bytes(b"x")
    assert sweep(instance) == []
    assert other.exists()
    other.unlink()


def test_what_a_living_process_holds_stays(instance):
    counters = Counters.create(instance, "ingest", [])
    assert sweep(instance) == []
    counters.close()


def test_a_pipe_is_swept_and_holds_nobody_up(instance):
    path = Path(f"/dev/shm/sprint.{instance}.blocks")
    os.mkfifo(path)
    opened_for_it = []

    def open_other_end():
        opened_for_it.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    help_out = threading.Timer(20, open_other_end)
    help_out.start()
    assert sweep(instance) == [path.name]
    help_out.cancel()
    help_out.join()
    assert not opened_for_it


def test_a_socket_that_nobody_listens_on_is_removed(tmp_path):
    living, dead, other = (tmp_path / f"{name}.sock" for name in ("x.free", "x.turbo", "y.turbo"))
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as ending:
        listening.bind(str(living))
        listening.listen()
        ending.bind(str(dead))
        ending.listen()
        with socket.socket(socket.AF_UNIX) as others:
            others.bind(str(other))
        ending.close()
        (tmp_path / "x.file.sock").write_text("no socket")
        assert sweep_sockets("x", str(tmp_path)) == ["x.turbo.sock"]
        assert sweep_sockets("x", "") == []
    assert living.exists()
    assert other.exists()
