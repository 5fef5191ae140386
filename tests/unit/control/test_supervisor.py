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
from bitcoin_sprint.control.charge import StartFailed
from bitcoin_sprint.control.process_handle import ProcessHandle
from bitcoin_sprint.control.roles import stages
from bitcoin_sprint.control.status import read_status
from bitcoin_sprint.control.supervisor import Supervisor
from bitcoin_sprint.errors import NotRunningError, WriterActive

_PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from bitcoin_sprint.control.child_end import ChildEnd
from bitcoin_sprint.metrics import Counters
role, folder = sys.argv[1], Path(sys.argv[3])
starts = folder / f"{role}.starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
count = len(starts.read_text())
end = ChildEnd(int(sys.argv[2]))
order = end.receive_order()
end.watch()
"""
_SERVE = _PRELUDE + "end.say_ready(); signal.pause()\n"
# Beats as long as there is no file of this name, and serves on without beating.
_BEAT = (
    _PRELUDE
    + """
counters = Counters.create(order.config.instance, role, [])
end.say_ready()
while True:
    if not (folder / "silence").exists():
        counters.heartbeat()
    time.sleep(0.05)
"""
)


@pytest.fixture
def instance():
    name = f"test-sup-{os.getpid()}"
    yield name
    for path in Path("/dev/shm").glob(f"sprint.{name}*"):
        path.unlink()
        pytest.fail(f"left behind: {path}")


class Scripts:
    """Spawns scripts by role; a role that has none serves until it is stopped."""

    def __init__(self, folder):
        self.folder, self.given = folder, {}

    def prepare(self):
        pass

    async def spawn(self, role, line):
        code = self.given.get(role, _SERVE)
        started = subprocess.Popen(
            [sys.executable, "-c", code, role, str(line.fileno()), str(self.folder)],
            pass_fds=[line.fileno()],
            process_group=0,
        )
        started.returncode = 0  # the handle reaps it
        return ProcessHandle(started.pid)

    async def close(self):
        pass


@pytest.fixture
def scripts(tmp_path):
    return Scripts(tmp_path)


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


async def test_everything_starts_and_stops_and_status_tells(instance, scripts):
    running = Supervisor(_config(instance), spawner=scripts)
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


async def test_a_second_supervisor_of_the_instance_is_refused(instance, scripts):
    running = Supervisor(_config(instance), spawner=scripts)
    with pytest.raises(WriterActive):
        Supervisor(_config(instance), spawner=scripts)
    await running.stop()


async def test_a_process_that_dies_is_started_again(instance, scripts, tmp_path):
    running = Supervisor(_config(instance), spawner=scripts)
    await running.start()
    ingest = running.charges["ingest"]
    for time_killed in (1, 2, 3):
        os.kill(ingest.process.pid, signal.SIGKILL)
        await _until(lambda: _starts(tmp_path, "ingest") == time_killed + 1)  # noqa: B023
        await _until(lambda: read_status(instance)["processes"][1]["state"] == "ready")
    assert read_status(instance)["processes"][1]["restarts"] == 3
    await running.stop()


async def test_a_process_that_fails_to_come_back_is_tried_again(
    instance, scripts, tmp_path, caplog
):
    scripts.given["relay-turbo"] = (
        _PRELUDE
        + "if 1 < count < 4: end.say_failed('port taken'); sys.exit(3)\n"
        + "end.say_ready(); signal.pause()\n"
    )
    running = Supervisor(_config(instance), spawner=scripts)
    await running.start()
    with caplog.at_level(logging.ERROR):
        os.kill(running.charges["relay-turbo"].process.pid, signal.SIGTERM)
        await _until(lambda: _starts(tmp_path, "relay-turbo") == 4)
        await _until(lambda: read_status(instance)["processes"][2]["state"] == "ready")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0] == "relay-turbo died (signal SIGTERM)"
    assert texts[1:] == ["relay-turbo: port taken"] * 2
    await running.stop()


async def test_a_reason_for_not_starting_ends_the_engine_with_its_exit_code(instance, scripts):
    scripts.given["relay-turbo"] = _PRELUDE + "end.say_failed('port 7403 is taken'); sys.exit(3)\n"
    running = Supervisor(_config(instance), spawner=scripts)
    with pytest.raises(StartFailed, match="relay-turbo: port 7403 is taken") as caught:
        await running.start()
    assert caught.value.exit_code == 3
    assert not any(charge.running for charge in running.charges.values())


async def test_dying_without_a_word_at_start_is_a_failure(instance, scripts):
    scripts.given["ingest"] = "import os; os.abort()"
    running = Supervisor(_config(instance), spawner=scripts)
    with pytest.raises(
        StartFailed, match=r"ingest: died at its start \(signal SIGABRT\)"
    ) as caught:
        await running.start()
    assert caught.value.exit_code == 1


async def test_a_process_that_never_gets_ready_is_given_up(instance, scripts):
    scripts.given["ingest"] = _PRELUDE + "signal.pause()\n"
    running = Supervisor(_config(instance, control__ready_timeout="500ms"), spawner=scripts)
    with pytest.raises(StartFailed, match=r"ingest: not ready within 0\.5 s"):
        await running.start()
    assert not running.charges["ingest"].running


async def test_what_does_not_stop_is_killed_in_time_and_its_memory_swept(instance, scripts):
    scripts.given["ingest"] = (
        _PRELUDE
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + f"Path('/dev/shm/sprint.{instance}.blocks').write_bytes(b'x')\n"
        + "end.say_ready()\nwhile True: signal.pause()\n"
    )
    running = Supervisor(_config(instance, control__stop_timeout="300ms"), spawner=scripts)
    await running.start()
    began = time.monotonic()
    await running.stop()
    assert time.monotonic() - began < 5
    assert not any(charge.running for charge in running.charges.values())


async def test_stopping_while_starting_leaves_nothing(instance, scripts, tmp_path):
    scripts.given["relay-turbo"] = _PRELUDE + "time.sleep(60)\n"
    running = Supervisor(_config(instance), spawner=scripts)
    starting = asyncio.create_task(running.start())
    await _until(lambda: (tmp_path / "relay-turbo.starts").exists())
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not any(charge.running for charge in running.charges.values())
