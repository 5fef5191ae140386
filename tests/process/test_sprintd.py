"""The engine as a whole: it starts, serves, survives its parts, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from engines import Engine, stream_address

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.errors import Disconnected
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.ring import Ring

_TURBO = "⚡ Turbo mode enabled: writeDeadline=500µs sharedMemory=true blockBufferSize=2048"


@pytest.fixture
def instance(request):
    return f"t{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"


def _wait(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def _children(pid):
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _figure(instance, process, name):
    snapshot = read_snapshot(instance, process)
    return snapshot["counters"][name] if snapshot else None


def _blocks(address, tier, count):
    heights = []
    with Subscriber(address, tier=tier) as subscriber:
        for frame in subscriber:
            if frame.kind == Kind.BLOCK:
                heights.append(frame.height)
                if len(heights) == count:
                    return heights
    return heights


def test_it_serves_every_tier_and_the_rings_and_leaves_nothing(instance):
    with Engine(instance).start().ready() as engine:
        ring = Ring.attach(instance, "blocks")
        reader = ring.reader(start="oldest")
        frame = reader.wait(20)
        assert frame is not None
        assert frame.kind == Kind.HEADER
        for tier in ("free", "turbo", "enterprise"):
            heights = _blocks(stream_address(engine, tier), tier, 2)
            assert heights[1] == heights[0] + 1
        assert ring.network == "regtest"
        reader.close()
        ring.close()
        assert engine.stop() == 0
        assert engine.leftovers() == []
        messages = [event["message"] for event in engine.events()]
        assert _TURBO in messages
        assert messages[-1] == "stopped"


@pytest.mark.parametrize("role", ["ingest", "relay-turbo", "sim"])
def test_a_process_that_is_killed_is_started_again_and_the_stream_goes_on(instance, role):
    with Engine(instance, tier="turbo").start().ready() as engine:
        old = engine.pid(role)
        os.kill(old, signal.SIGKILL)
        engine.until(lambda: engine.states().get(role) == "ready" and engine.pid(role) != old)
        assert len(_blocks(stream_address(engine, "turbo"), "turbo", 2)) == 2
        engine.ready()
        assert engine.stop() == 0
        assert any(f"{role} died (signal SIGKILL)" in line for line in engine.log().splitlines())


class _Listener(threading.Thread):
    """Follows a tier's stream from a thread of its own and checks that no number is missing."""

    def __init__(self, address, tier):
        super().__init__()
        self.frames = 0
        self.holes = []
        self.error = None
        self._subscriber = Subscriber(
            address, tier=tier, reconnect=False, on_gap=lambda *gap: self.holes.append(gap)
        ).connect()
        self.start()

    def run(self):
        try:
            for _frame in self._subscriber:
                self.frames += 1
        except Disconnected as error:
            self.error = error

    def heard_more(self, count=3):
        """A condition: that so many more frames have come from now on."""
        wanted = self.frames + count
        return lambda: self.frames >= wanted


def test_a_killed_supervisors_processes_serve_on_and_its_successor_adopts_them(instance):
    with Engine(instance, tier="turbo").start().ready() as engine:
        listener = _Listener(stream_address(engine, "turbo"), "turbo")
        _wait(listener.heard_more())
        roles = ["sim", "ingest", "relay-turbo"]
        before = {role: engine.pid(role) for role in roles}
        engine.kill_supervisor()
        _wait(listener.heard_more())
        engine.start().ready()
        assert {role: engine.pid(role) for role in roles} == before
        _wait(listener.heard_more())
        # Everything else works as with processes of its own: the death of one is seen, ...
        os.kill(before["ingest"], signal.SIGKILL)
        engine.until(
            lambda: (
                engine.states().get("ingest") == "ready"
                and engine.pid("ingest") != before["ingest"]
            )
        )
        _wait(listener.heard_more())
        assert (listener.holes, listener.error) == ([], None)
        # ... and a stop ends all of them.
        assert engine.stop() == 0
        assert engine.leftovers() == []
        listener.join(10)
        messages = [event["message"] for event in engine.events()]
        assert {f"{role} is adopted" for role in roles} <= set(messages)
        assert "ingest died (adopted, so its exit code is unknown)" in messages
        assert sum("the supervisor has gone" in message for message in messages) == len(roles)


def test_with_everything_killed_a_successor_starts_anew_in_the_same_rings(instance):
    with Engine(instance, tier="free").start().ready() as engine:
        ring = Ring.attach(instance, "blocks")
        epoch = ring.epoch
        engine.kill_supervisor()
        engine.kill_processes()
        engine.start().ready()
        assert ring.epoch > epoch
        ring.close()
        assert len(_blocks(stream_address(engine, "free"), "free", 1)) == 1
        assert engine.stop() == 0
        assert engine.leftovers() == []


def test_what_runs_something_else_is_replaced_with_a_line_that_says_why(instance):
    with Engine(instance).start().ready() as engine:
        engine.kill_supervisor()
        engine.keys["tier"] = "turbo"
        engine.start().ready()
        assert set(engine.states()) == {"sprintd", "sim", "ingest", "relay-turbo"}
        assert engine.stop() == 0
        messages = [event["message"] for event in engine.events()]
        for role, why in (
            ("ingest", "runs with another configuration"),
            ("relay-free", "is not configured any more"),
        ):
            assert messages.count(f"{role} of a killed sprintd {why} and is ended") == 1


def test_a_stopped_process_does_not_keep_it_from_stopping(instance):
    with Engine(instance, tier="turbo").start().ready() as engine:
        os.kill(engine.pid("relay-turbo"), signal.SIGSTOP)
        os.kill(engine.pid("ingest"), signal.SIGSTOP)
        began = time.monotonic()
        assert engine.stop() == 0
        assert time.monotonic() - began < 5
        assert engine.leftovers() == []


def test_a_reload_takes_what_can_change_and_names_what_needs_a_restart(instance):
    with Engine(instance, tier="turbo").start().ready() as engine:
        pids = {role: engine.pid(role) for role in engine.states()}
        environment = engine.folder / ".env"
        environment.write_text("SPRINT_LOG_LEVEL=loud\nSPRINT_CONTROL_STOP_TIMEOUT=1s\n")
        engine.process.send_signal(signal.SIGHUP)
        engine.until(lambda: "log.level" in engine.log())
        environment.write_text(
            "SPRINT_LOG_LEVEL=debug\nSPRINT_SIM_SEED=7\n"
            "SPRINT_RELAY_TIERS_TURBO_BUFFER_FRAMES=3000\nSPRINT_WRITE_DEADLINE=2ms\n"
        )
        engine.process.send_signal(signal.SIGHUP)
        engine.until(lambda: _figure(instance, "relay-turbo", "buffer_frames") == 3000)
        status = engine.status()
        assert (status["blockBufferSize"], status["writeDeadline"]) == (3000, "2ms")
        assert len(_blocks(stream_address(engine, "turbo"), "turbo", 1)) == 1
        engine.until(lambda: "stream: subscriber joined" in engine.log())  # a line of level debug
        assert {role: engine.pid(role) for role in engine.states()} == pids
        assert engine.stop() == 0
        told = [each for each in engine.events() if each["level"] in ("error", "warning")]
        assert [each["message"] for each in told] == [
            f"log.level = 'loud' ({environment}, SPRINT_LOG_LEVEL): "
            "must be one of debug, info, warning, error",
            "these keys have changed and need a restart: sim.seed",
        ]


def test_systemd_is_told_of_start_life_reload_and_stop(instance, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)

        def heard(*wanted):
            """The next message that is one of those; what else comes is not of interest."""
            while True:
                message = dict(
                    line.split("=", 1) for line in manager.recv(4096).decode().split("\n")
                )
                if set(message) & set(wanted):
                    return message

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with Engine(instance, tier="free").start(environ) as engine:
            # The watchdog is fed only once everything serves.
            first = heard("READY", "WATCHDOG")
            assert first == {"READY": "1", "STATUS": "serving free on regtest, 3 processes"}
            times = [heard("WATCHDOG") and time.monotonic() for _ in range(4)]
            assert times[-1] - times[0] >= 0.2
            os.kill(engine.pid("ingest"), signal.SIGKILL)
            assert heard("STATUS") == {"STATUS": "restarting ingest"}
            assert heard("STATUS")["STATUS"].startswith("serving")
            engine.process.send_signal(signal.SIGHUP)
            assert set(heard("RELOADING", "READY")) == {"RELOADING", "MONOTONIC_USEC"}
            assert heard("RELOADING", "READY")["READY"] == "1"
            assert engine.stop() == 0
            assert heard("STOPPING")["STOPPING"] == "1"


def test_a_second_engine_of_the_same_name_is_refused(instance):
    with Engine(instance, tier="free").start().ready() as engine:
        with Engine(instance, tier="free") as second:
            second.start()
            nursery = []
            while second.process.poll() is None:
                nursery = nursery or _children(second.process.pid)
                time.sleep(0.005)
            assert second.wait() == 3
            assert nursery
            assert not [child for child in nursery if child.is_running()]
            (event,) = [each for each in second.events() if each["level"] == "error"]
            assert instance in event["message"]
            engine.ready()
            # What the first one owns is no leftover of the second.
            second.instance = "nobody"
        assert engine.stop() == 0


def test_a_taken_port_ends_it_with_one_clear_line(instance):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        keys = {"relay__tiers__turbo__stream_port": port}
        with Engine(instance, tier="turbo", **keys) as engine:
            assert engine.start().wait() == 3
            errors = [event for event in engine.events() if event["level"] == "error"]
            assert len(errors) == 1
            assert "relay-turbo" in errors[0]["message"]
            assert str(port) in errors[0]["message"]
            assert "Traceback" not in engine.log()
            del engine.keys["relay.tiers.turbo.stream_port"]


@pytest.mark.parametrize("taken", [False, True])
def test_with_its_outputs_closed_it_starts_stops_and_fails_as_ever(instance, taken):
    with socket.create_server(("127.0.0.1", 0)) as server, Engine(instance, tier="turbo") as engine:
        key = "relay.tiers.turbo.stream_port"
        given = engine.keys[key]
        if taken:
            engine.keys[key] = server.getsockname()[1]
        installed = Path(sys.executable).parent / "sprintd"
        script = f'shift 3; exec {installed} "$@" <&- >&- 2>&-'
        engine.launcher = ["bash", "-c", script, "without outputs"]
        engine.start()
        if not taken:
            engine.ready()
        assert (engine.wait() if taken else engine.stop()) == (3 if taken else 0)
        engine.keys[key] = given


def test_a_hangup_while_it_loads_is_obeyed_once_it_serves(instance, tmp_path):
    marks = tmp_path / "sitecustomize.py"
    # Hangs itself up when the module named is loaded: sprintd is still loading its own.
    marks.write_text(
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'bitcoin_sprint.control.service':\n"
        "            os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    with Engine(instance, tier="free").start({"PYTHONPATH": str(tmp_path)}) as engine:
        engine.until(lambda: "configuration reloaded" in engine.log())
        assert engine.stop() == 0


def test_a_wrong_value_ends_it_with_one_clear_line():
    ended = subprocess.run(
        [sys.executable, "-m", "bitcoin_sprint.control.sprintd", "--set", "log.level=loud"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "sprintd: log.level = 'loud' (flag): must be one of debug, info, warning, error\n"
    )


def test_stopping_it_while_it_starts_leaves_nothing(instance):
    with Engine(instance).start() as engine:
        engine.until(lambda: bool(engine.states()))
        assert engine.stop() == 0
        assert engine.leftovers() == []
