"""The supervisor with small scripts for processes: every way in which one can fail."""

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import adoption, supervisor
from bitcoin_sprint.control.channel import (
    VERSION,
    Identity,
    Inquiry,
    Peer,
    SupervisorEnd,
    address_of,
    encode,
)
from bitcoin_sprint.control.charge import StartFailed
from bitcoin_sprint.control.process_handle import ProcessHandle
from bitcoin_sprint.control.roles import stages
from bitcoin_sprint.control.status import read_status
from bitcoin_sprint.control.supervisor import Supervisor
from bitcoin_sprint.errors import NotRunningError, WriterActive
from bitcoin_sprint.metrics import CountersView

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
        self.folder, self.given, self.spawned = folder, {}, []

    def prepare(self):
        pass

    async def spawn(self, role):
        code = self.given.get(role, _SERVE)
        ours, line = socket.socketpair()
        with line:
            started = subprocess.Popen(
                [sys.executable, "-c", code, role, str(line.fileno()), str(self.folder)],
                pass_fds=[line.fileno()],
                process_group=0,
            )
        started.returncode = 0  # the handle reaps it
        self.spawned.append(started.pid)
        return ProcessHandle(started.pid), ours

    def tidy(self):
        pass

    async def close(self):
        pass


@pytest.fixture
def scripts(tmp_path):
    scripts = Scripts(tmp_path)
    yield scripts
    for pid in scripts.spawned:  # those of a test that failed
        if str(tmp_path).encode() in _command_of(pid):
            os.kill(pid, signal.SIGKILL)


def _command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


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


def _adoptable(instance, role):
    """Whether a process listens at the role's address."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(address_of(instance, role)) == 0


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
    scripts.given["ingest"] = scripts.given["relay-turbo"] = _PRELUDE + "signal.pause()\n"
    running = Supervisor(_config(instance, control__ready_timeout="500ms"), spawner=scripts)
    with pytest.raises(StartFailed, match=r"(ingest|relay-turbo): not ready within 0\.5 s"):
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


async def test_a_process_that_hangs_does_not_use_up_the_time_of_those_upstream(instance, scripts):
    scripts.given["relay-turbo"] = (
        _PRELUDE
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + "end.say_ready()\nwhile True: signal.pause()\n"
    )
    scripts.given["ingest"] = (
        _PRELUDE
        + "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), os._exit(0)))\n"
        + "end.say_ready()\nwhile True: signal.pause()\n"
    )
    running = Supervisor(_config(instance, control__stop_timeout="1s"), spawner=scripts)
    await running.start()
    await running.stop()
    assert running.charges["relay-turbo"].process.exit_code == -signal.SIGKILL
    assert running.charges["ingest"].process.exit_code == 0


async def test_a_process_that_no_longer_beats_is_killed_and_started_again(
    instance, scripts, tmp_path, caplog
):
    scripts.given["relay-turbo"] = _BEAT
    running = Supervisor(_config(instance, control__heartbeat_timeout="2s"), spawner=scripts)
    await running.start()
    charge = running.charges["relay-turbo"]
    view = CountersView.attach(instance, "relay-turbo")
    for second in range(5):
        seen = view.last_heartbeat()
        await _until(lambda: view.last_heartbeat() != seen)  # noqa: B023
        charge.look(second, 1, 2)
    assert charge.serving
    assert not caplog.messages
    (tmp_path / "silence").touch()
    second = 5
    while charge.running:
        charge.look(second, 1, 2)
        second += 1
        await asyncio.sleep(0.001)
    view.close()
    (tmp_path / "silence").unlink()
    await _until(lambda: _starts(tmp_path, "relay-turbo") == 2 and charge.serving)
    assert caplog.messages == ["relay-turbo died (no heartbeat for 3 s, so it was killed)"]
    await running.stop()


async def test_a_process_that_starts_during_a_reload_gets_the_new_values_too(
    instance, scripts, tmp_path
):
    scripts.given["relay-turbo"] = (
        _PRELUDE
        + "end.on_reload(lambda new: (folder / 'level').write_text(new.log.level))\n"
        + "while count > 1 and not (folder / 'go').exists(): time.sleep(0.01)\n"
        + "end.say_ready(); signal.pause()\n"
    )
    running = Supervisor(_config(instance), spawner=scripts)
    await running.start()
    os.kill(running.charges["relay-turbo"].process.pid, signal.SIGKILL)
    await _until(lambda: (tmp_path / "relay-turbo.starts").read_text() == "xx")
    await running.reload(_config(instance, log__level="error"))
    (tmp_path / "go").touch()
    await _until(lambda: (tmp_path / "level").exists() and (tmp_path / "level").read_text())
    assert (tmp_path / "level").read_text() == "error"
    await running.stop()


class _Killed:
    """A supervisor as a SIGKILL leaves it: its lines closed, its lock free, nothing swept."""

    @staticmethod
    async def make(config, scripts):
        killed = Supervisor(config, stays=True, spawner=scripts)
        await killed.start()
        for task in killed._tasks:
            task.cancel()
        await asyncio.gather(*killed._tasks, return_exceptions=True)
        for charge in killed.charges.values():
            charge.close()
            charge.process.release()
        killed._counters.close(unlink=False)
        return killed


async def test_the_processes_of_a_killed_supervisor_are_adopted(instance, scripts, tmp_path):
    config = _config(instance)
    killed = await _Killed.make(config, scripts)
    running = Supervisor(config, stays=True, spawner=scripts)
    await running.start()
    for role, charge in running.charges.items():
        assert charge.process.pid == killed.charges[role].process.pid
        assert _starts(tmp_path, role) == 1
    assert running.watching
    assert running.summary == "serving turbo on main, 2 processes"
    os.kill(running.charges["ingest"].process.pid, signal.SIGKILL)
    await _until(lambda: _starts(tmp_path, "ingest") == 2 and running.charges["ingest"].serving)
    await running.stop()
    assert not any(charge.running for charge in running.charges.values())


async def test_what_cannot_be_started_beside_adopted_ones_is_tried_again(
    instance, scripts, tmp_path, caplog
):
    config = _config(instance)
    killed = await _Killed.make(config, scripts)
    relay = killed.charges["relay-turbo"].process.pid
    os.kill(killed.charges["ingest"].process.pid, signal.SIGKILL)
    await _until(lambda: not _adoptable(instance, "ingest"))
    scripts.given["ingest"] = (
        _PRELUDE
        + "if count < 4: end.say_failed('no room'); sys.exit(3)\n"
        + "end.say_ready(); signal.pause()\n"
    )
    running = Supervisor(config, stays=True, spawner=scripts)
    await running.start()
    await _until(lambda: running.charges["ingest"].serving)
    assert _starts(tmp_path, "ingest") == 4
    assert running.charges["relay-turbo"].process.pid == relay
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert errors == ["ingest: no room"] * 2
    await running.stop()


async def test_a_full_descriptor_table_is_a_restart_to_be_tried_again(
    instance, scripts, monkeypatch, caplog
):
    running = Supervisor(_config(instance), spawner=scripts)
    await running.start()
    charge = running.charges["relay-turbo"]
    real = socket.socketpair
    refusals = [OSError(errno.EMFILE, "Too many open files")] * 3

    def refuse(*arguments):
        if refusals:
            raise refusals.pop()
        return real(*arguments)

    monkeypatch.setattr(socket, "socketpair", refuse)
    os.kill(charge.process.pid, signal.SIGKILL)
    await _until(lambda: not refusals and charge.serving)
    assert caplog.messages[1:4] == ["relay-turbo: cannot be started: Too many open files"] * 3
    assert running.watching
    await running.stop()


async def test_a_process_of_another_version_is_replaced(
    instance, scripts, tmp_path, monkeypatch, caplog
):
    config = _config(instance)
    await _Killed.make(config, scripts)
    monkeypatch.setattr(supervisor, "VERSION", "9.9")
    running = Supervisor(config, stays=True, spawner=scripts)
    await running.start()
    assert (_starts(tmp_path, "ingest"), _starts(tmp_path, "relay-turbo")) == (2, 2)
    why = f"of a killed sprintd runs version {VERSION}, this is 9.9 and is ended"
    assert {f"ingest {why}", f"relay-turbo {why}"} <= set(caplog.messages)
    await running.stop()


async def test_a_process_that_does_not_answer_is_replaced(
    instance, scripts, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(adoption, "_ANSWER_S", 0.5)
    config = _config(instance, control__stop_timeout="30s")
    killed = await _Killed.make(config, scripts)
    pid = killed.charges["ingest"].process.pid
    os.kill(pid, signal.SIGSTOP)
    await _until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    running = Supervisor(config, stays=True, spawner=scripts)
    await running.start()
    assert "ingest of a killed sprintd does not answer and is ended" in caplog.messages
    assert _starts(tmp_path, "ingest") == 2
    await running.stop()


async def test_a_process_that_hangs_up_and_stays_is_replaced_too(
    instance, scripts, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(adoption, "_ANSWER_S", 0.3)
    config = _config(instance)
    await _Killed.make(config, scripts)
    real = SupervisorEnd.send

    async def send(self, message):
        """As to a process of a version whose words are others."""
        if isinstance(message, Inquiry):
            await asyncio.get_running_loop().sock_sendall(self._socket, b"what?\n")
            return True
        return await real(self, message)

    monkeypatch.setattr(SupervisorEnd, "send", send)
    running = Supervisor(config, stays=True, spawner=scripts)
    await running.start()
    assert (_starts(tmp_path, "ingest"), _starts(tmp_path, "relay-turbo")) == (2, 2)
    assert "ingest of a killed sprintd does not answer and is ended" in caplog.messages
    await running.stop()


async def test_a_stop_while_it_adopts_ends_who_is_found(instance, scripts, monkeypatch):
    config = _config(instance)
    killed = await _Killed.make(config, scripts)
    real, asked = adoption.find, asyncio.Event()

    async def find(*arguments):
        asked.set()
        return await real(*arguments)

    monkeypatch.setattr(adoption, "find", find)
    running = Supervisor(config, stays=True, spawner=scripts)
    starting = asyncio.create_task(running.start())
    await asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    for charge in killed.charges.values():
        assert charge.process.pid in scripts.spawned
        assert not Path(f"/proc/{charge.process.pid}").exists()
    assert len(scripts.spawned) == len(killed.charges)


async def test_who_is_not_whom_he_should_be_is_left_alone(instance, scripts, caplog):
    config = _config(instance)
    answer = Identity(os.getpid(), 1, instance, "ingest", "", "", ready=True)

    async def lie(reader, writer):
        await reader.readline()
        writer.write(encode(answer))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address_of(instance, "ingest"))
        async with await asyncio.start_unix_server(lie, sock=listener):
            running = Supervisor(config, stays=True, spawner=scripts)
            await running.start()
            assert f"pid {os.getpid()} there is not our ingest" in caplog.text
            assert running.charges["ingest"].process.pid != os.getpid()
            await running.stop()


async def test_another_users_process_is_not_even_asked(instance, monkeypatch, caplog):
    monkeypatch.setattr(adoption, "peer_of", lambda _line: Peer(1, os.geteuid() + 1))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address_of(instance, "ingest"))
        listener.listen()
        assert await adoption.find(instance, ["ingest", "relay-pro"]) == []
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1) == b""
    assert f"belongs to user {os.geteuid() + 1}: ingest is not looked for" in caplog.text
