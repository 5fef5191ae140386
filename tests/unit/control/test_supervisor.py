"""The supervisor with small scripts for processes: every way in which one can fail."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import supervisor as module
from bitcoin_sprint.control.status import read_status
from bitcoin_sprint.control.supervisor import StartFailed, Supervisor, stages
from bitcoin_sprint.errors import NotRunningError, WriterActive

_PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from bitcoin_sprint.control.channel import ChildEnd
role, folder = sys.argv[1], Path(sys.argv[3])
starts = folder / f"{role}.starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
count = len(starts.read_text())
end = ChildEnd(int(sys.argv[2]))
order = end.receive_order()
end.stop_with_supervisor()
"""
_SERVE = _PRELUDE + "end.say_ready(); signal.pause()\n"


@pytest.fixture
def instance():
    name = f"test-sup-{os.getpid()}"
    yield name
    assert not list(Path("/dev/shm").glob(f"sprint.{name}*"))


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Scripts by role; what has none serves until it is stopped."""
    given = {}

    def command(role, descriptor):
        code = given.get(role, _SERVE)
        return [sys.executable, "-c", code, role, str(descriptor), str(tmp_path)]

    monkeypatch.setattr(module, "_command", command)
    return given


def _config(instance, **overrides):
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load(
        None,
        {
            "instance": instance,
            "tier": "turbo",
            "control.restart_delay_min": "1ms",
            "control.ready_timeout": "20s",
            **keys,
        },
    )


def _starts(tmp_path, role):
    return len((tmp_path / f"{role}.starts").read_text())


async def _until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_processes_start_upstream_first():
    assert stages(load(None, {"tier": "pro"})) == [["ingest"], ["relay-pro"]]
    config = load(None, {"sim.enabled": True, "network": "regtest"})
    assert stages(config, ["demo"]) == [
        ["sim"],
        ["ingest"],
        ["relay-free", "relay-pro", "relay-business", "relay-turbo", "relay-enterprise"],
        ["demo"],
    ]


@pytest.mark.usefixtures("scripts")
async def test_everything_starts_and_stops_and_status_tells(instance):
    running = Supervisor(_config(instance))
    await running.start()
    status = read_status(instance)
    assert {each["role"]: each["state"] for each in status["processes"]} == {
        "sprintd": "ready",
        "ingest": "ready",
        "relay-turbo": "ready",
    }
    assert all(each["memory_bytes"] > 1 << 20 for each in status["processes"])
    pids = [each["pid"] for each in status["processes"][1:]]
    await running.stop()
    await running.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(NotRunningError):
        read_status(instance)


@pytest.mark.usefixtures("scripts")
async def test_a_second_supervisor_of_the_instance_is_refused(instance):
    running = Supervisor(_config(instance))
    with pytest.raises(WriterActive):
        Supervisor(_config(instance))
    await running.stop()


@pytest.mark.usefixtures("scripts")
async def test_a_process_that_dies_is_started_again(instance, tmp_path):
    running = Supervisor(_config(instance))
    await running.start()
    ingest = running.children["ingest"]
    for time_killed in (1, 2, 3):
        os.kill(ingest.process.pid, signal.SIGKILL)
        await _until(lambda: _starts(tmp_path, "ingest") == time_killed + 1)  # noqa: B023
        await _until(lambda: read_status(instance)["processes"][1]["state"] == "ready")
    assert read_status(instance)["processes"][1]["restarts"] == 3
    await running.stop()


async def test_a_process_that_fails_to_come_back_is_tried_again(
    instance, scripts, tmp_path, caplog
):
    scripts["relay-turbo"] = (
        _PRELUDE
        + "if 1 < count < 4: end.say_failed('port taken'); sys.exit(3)\n"
        + "end.say_ready(); signal.pause()\n"
    )
    running = Supervisor(_config(instance))
    await running.start()
    with caplog.at_level(logging.ERROR):
        os.kill(running.children["relay-turbo"].process.pid, signal.SIGTERM)
        await _until(lambda: _starts(tmp_path, "relay-turbo") == 4)
        await _until(lambda: read_status(instance)["processes"][2]["state"] == "ready")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "relay-turbo died (signal SIGTERM)"
    assert texts[1:] == ["relay-turbo: port taken"] * 2
    await running.stop()


async def test_a_reason_for_not_starting_ends_the_engine_with_its_exit_code(instance, scripts):
    scripts["relay-turbo"] = _PRELUDE + "end.say_failed('port 7403 is taken'); sys.exit(3)\n"
    running = Supervisor(_config(instance))
    with pytest.raises(StartFailed, match="relay-turbo: port 7403 is taken") as caught:
        await running.start()
    assert caught.value.exit_code == 3
    assert not any(child.running for child in running.children.values())


async def test_dying_without_a_word_at_start_is_a_failure(instance, scripts):
    scripts["ingest"] = "import os; os.abort()"
    running = Supervisor(_config(instance))
    with pytest.raises(
        StartFailed, match=r"ingest: died at its start \(signal SIGABRT\)"
    ) as caught:
        await running.start()
    assert caught.value.exit_code == 1


async def test_a_process_that_never_gets_ready_is_given_up(instance, scripts):
    scripts["ingest"] = _PRELUDE + "signal.pause()\n"
    running = Supervisor(_config(instance, control__ready_timeout="500ms"))
    with pytest.raises(StartFailed, match=r"ingest: not ready within 0\.5 s"):
        await running.start()
    assert not running.children["ingest"].running


async def test_what_does_not_stop_is_killed_in_time_and_its_memory_swept(instance, scripts):
    scripts["ingest"] = (
        _PRELUDE
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + f"Path('/dev/shm/sprint.{instance}.blocks').write_bytes(b'x')\n"
        + "end.say_ready()\nwhile True: signal.pause()\n"
    )
    running = Supervisor(_config(instance, control__stop_timeout="300ms"))
    await running.start()
    began = time.monotonic()
    await running.stop()
    assert time.monotonic() - began < 5
    assert not any(child.running for child in running.children.values())


async def test_stopping_while_starting_leaves_nothing(instance, scripts, tmp_path):
    scripts["relay-turbo"] = _PRELUDE + "time.sleep(60)\n"
    running = Supervisor(_config(instance))
    starting = asyncio.create_task(running.start())
    await _until(lambda: (tmp_path / "relay-turbo.starts").exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not any(child.running for child in running.children.values())


def test_processes_end_when_the_supervisor_is_killed(tmp_path):
    child_code = tmp_path / "child.py"
    child_code.write_text(_SERVE)
    parent_code = (
        "import socket, subprocess, sys, os, time\n"
        "from bitcoin_sprint.config import load\n"
        "from bitcoin_sprint.control.channel import Order, encode_order\n"
        "ours, theirs = socket.socketpair()\n"
        "child = subprocess.Popen([sys.executable, sys.argv[1], 'ingest', str(theirs.fileno()),"
        " sys.argv[2]], pass_fds=[theirs.fileno()], process_group=0)\n"
        "theirs.close(); ours.sendall(encode_order(Order('ingest', load())))\n"
        "ours.recv(100); print(child.pid, flush=True); os.abort()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", parent_code, str(child_code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(ended.stdout)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and _alive(pid):
        assert time.monotonic() < deadline, "the orphan lives on"
        time.sleep(0.01)


def _alive(pid):
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state not in "ZX"
