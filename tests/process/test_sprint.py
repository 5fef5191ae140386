"""The operator's command against a running engine, and the demo."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import Engine, stream_address
from relay_rig import Rings, patient, running_worker

_TIERS = ["free", "pro", "business", "turbo", "enterprise"]


class Ended(NamedTuple):
    """A command that has ended."""

    pid: int
    stdout: str
    stderr: str


def _sprint(*arguments, code=0, **options):
    with subprocess.Popen(
        [sys.executable, "-m", "bitcoin_sprint.control.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as command:
        try:
            stdout, stderr = command.communicate(timeout=90)
        finally:
            command.kill()
    assert command.returncode == code, stderr
    return Ended(command.pid, stdout, stderr)


@contextlib.contextmanager
def _started(*arguments):
    """A command that runs on; whatever happens, it has ended afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "bitcoin_sprint.control.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


@pytest.fixture(scope="module")
def engine():
    with Engine(f"t{os.getpid()}-cli").start().ready() as running:
        yield running


def test_status_is_the_contracts_for_machines_and_readable_for_people(engine):
    status = json.loads(_sprint("status", "--instance", engine.instance, "--json").stdout)
    assert (status["tier"], status["writeDeadline"]) == ("enterprise", "200µs")
    assert [tier["tier"] for tier in status["tiers"]] == _TIERS
    roles = {each["role"] for each in status["processes"]}
    assert roles == {"sprintd", "sim", "ingest", *(f"relay-{tier}" for tier in _TIERS)}
    shown = _sprint("status", "--instance", engine.instance).stdout
    assert "relay-turbo" in shown
    assert "500µs" in shown


def test_stat_shows_the_counters_of_every_process_or_of_those_that_match(engine):
    out = _sprint("stat", "--once", "--instance", engine.instance, "--json").stdout
    figures = [json.loads(line) for line in out.splitlines()]
    assert {"ingest", "sprintd", "relay-turbo"} <= {each["process"] for each in figures}
    assert not any("rates" in each for each in figures)
    selected = ["stat", "--once", "relay-t*", "ingest", "--name", "*s_sent"]
    shown = _sprint(*selected, "--instance", engine.instance).stdout
    assert "relay-turbo frames_sent" in shown
    assert "relay-free" not in shown
    assert "blocks_published" not in shown


def test_stat_gives_rates_from_the_second_look_on_an_object_a_line(engine):
    command = ["stat", "ingest", "--json", "--interval", "0.3", "--instance", engine.instance]
    with _started(*command) as stat:
        looks = [json.loads(stat.stdout.readline()) for _ in range(4)]
        stat.send_signal(signal.SIGINT)
        assert stat.wait(30) == 0
        assert stat.stderr.read() == ""
    assert "rates" not in looks[0]
    assert all(each["rates"]["blocks_published"] >= 0 for each in looks[1:])
    assert any(each["rates"]["transactions_published"] > 0 for each in looks[1:])
    assert "tip_height" not in looks[1]["rates"], "a level has no rate"


def test_stat_of_a_process_that_is_not_there_names_those_that_are(engine):
    ended = _sprint("stat", "--once", "relay-gold", "--instance", engine.instance, code=4)
    assert "has no relay-gold, but ingest, relay-business" in ended.stderr


@pytest.mark.parametrize("where", ["ring", "stream"])
def test_tail_gives_frames_in_order_from_a_ring_and_from_a_stream(engine, where):
    source = ["--ring", "blocks", "--start", "oldest"]
    if where == "stream":
        source = ["--connect", stream_address(engine, "turbo")]
    out = _sprint("tail", "--instance", engine.instance, *source, "--count", "5", "--json").stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 5
    assert all(len(row["hash"]) == 64 for row in rows)
    shown = _sprint("tail", "--instance", engine.instance, *source, "--count", "2").stdout
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize("command", [["status"], ["stat"], ["tail"]])
def test_an_instance_that_does_not_run_ends_with_4_and_one_line(command):
    ended = _sprint(*command, "--instance", "nobody-here", code=4)
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "nobody-here" in ended.stderr


@pytest.mark.parametrize(
    ("address", "trouble"),
    [
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("zmq+tcp://127.0.0.1:1", "nobody answers"),
        ("unix:///nowhere.sock", "No such file or directory"),
    ],
)
def test_tail_says_once_that_nobody_answers_and_gives_up_when_told_to(address, trouble):
    ended = _sprint("tail", "--connect", address, "--timeout", "1.5", code=1)
    assert ended.stderr.splitlines() == [
        f"sprint: {address}: {trouble}; trying on",
        f"sprint: {address}: no frame within 1.5 s",
    ]


@pytest.mark.parametrize("scheme", ["tcp", "zmq+tcp"])
def test_tail_finds_a_server_that_comes_later_and_says_so(scheme):
    with contextlib.closing(Rings()) as rings:
        with socket.create_server(("127.0.0.1", 0)) as place:
            port = place.getsockname()[1]
        address = f"{scheme}://127.0.0.1:{port}"
        with _started("tail", "--connect", address, "--count", "1", "--json") as tail:
            assert "trying on" in tail.stderr.readline()
            key = "stream_port" if scheme == "tcp" else "zmq_port"
            with running_worker(rings, patient("turbo", **{key: port})) as running:
                while tail.poll() is None:
                    rings.header(7)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        tail.wait(0.05)
                assert running.worker.stream_port
            assert json.loads(tail.stdout.read())["height"] == 7
            assert tail.stderr.read() == f"sprint: {address}: well again\n"


def test_tail_goes_on_after_its_writer_died_and_ends_with_the_engine():
    with Engine(f"t{os.getpid()}-tail", tier="free", sim__interval="100ms") as running:
        running.start().ready()
        with _started("tail", "--instance", running.instance, "--json") as tail:
            json.loads(tail.stdout.readline())
            running.kill("ingest")
            json.loads(tail.stdout.readline())
            assert running.stop() == 0
            tail.stdout.read()
            assert tail.wait(30) == 4
            *episodes, last = tail.stderr.read().splitlines()
    assert last == f"sprint: instance {running.instance} has ended"
    # A successor may be there before anybody looks.
    where = f"sprint: ring blocks of instance {running.instance}: "
    assert episodes in ([], [f"{where}its writer is gone; trying on", f"{where}well again"])


@pytest.mark.parametrize("command", [["status"], ["stat"], ["tail", "--json"], ["config", "show"]])
def test_a_reader_that_leaves_early_is_no_trouble(engine, command):
    instance = [] if command[0] == "config" else ["--instance", engine.instance]
    with _started(*command, *instance) as running:
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(30) == 0
        assert running.stderr.read() == ""


@pytest.mark.parametrize("command", [["status"], ["stat", "--once"], ["stat"], ["tail"]])
def test_a_narrow_terminal_gets_a_screen_and_ctrl_c_ends_what_goes_on(engine, command):
    is_endless = command in (["stat"], ["tail"])
    instance = ["--instance", engine.instance]
    code, screen = _on_a_terminal(40, *command, *instance, interrupt=is_endless)
    assert code == 0, screen
    assert screen.strip()
    assert "Traceback" not in screen
    if command != ["stat"]:  # Ctrl-C may come while it draws anew, over what it had drawn
        plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", screen.replace("^C", ""))
        assert [line for line in plain.splitlines() if len(line) > 40] == []


def _on_a_terminal(columns, *arguments, interrupt):
    """Run sprint on a terminal; with ``interrupt`` until it has drawn something, then Ctrl-C."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    command = subprocess.Popen(
        [sys.executable, "-m", "bitcoin_sprint.control.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "COLUMNS"},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := os.read(ours, 65_536):
            drawn += piece
            if interrupt and drawn.count(b"\n") > 1:
                interrupt = False
                os.write(ours, b"\x03")
    os.close(ours)
    return command.wait(30), drawn.decode()


def test_config_show_tells_where_each_value_stood_and_check_refuses_a_wrong_one(tmp_path):
    path = tmp_path / "sprint.toml"
    path.write_text('tier = "turbo"\n')
    shown = json.loads(_sprint("config", "show", "--config", str(path), "--json").stdout)
    assert shown["tier"] == {"value": "turbo", "from": str(path)}
    assert "keys" in _sprint("config", "check", "--config", str(path)).stdout
    assert "default.toml" in _sprint("config", "show").stdout
    path.write_text('tier = "gold"\n')
    assert "'gold'" in _sprint("config", "check", "--config", str(path), code=2).stderr


@pytest.mark.parametrize("command", ["demo", "status", "stat", "tail", "config"])
def test_each_command_has_help_with_an_example(command):
    shown = _sprint(command, "--help").stdout
    assert f"example:\n  sprint {command}" in shown
    assert "--json" in shown


def test_without_a_command_it_says_how_to_use_it():
    assert "usage: sprint" in _sprint(code=2).stderr


def test_the_demo_serves_every_tier_and_ends_with_one_json_line():
    ended = _sprint("demo", "--seconds", "10", "--json")
    last = ended.stdout.splitlines()[-1]
    figures = json.loads(last)
    assert list(figures) == ["blocks", "headers", "txs", "gaps", "tiers"]
    assert list(figures["tiers"]) == _TIERS
    for tier in figures["tiers"].values():
        assert list(tier) == ["frames", "p50_us", "p99_us", "max_us", "missed", "overwritten"]
        assert tier["frames"] > 0
        assert 0 < tier["p50_us"] <= tier["p99_us"] <= tier["max_us"]
    assert figures["gaps"] == 0
    assert figures["blocks"] > 3
    assert figures["headers"] >= figures["blocks"]
    assert not list(Path("/dev/shm").glob(f"sprint.demo-{ended.pid}.*"))


def test_ctrl_c_ends_the_demo_with_a_summary():
    demo = subprocess.Popen(
        [sys.executable, "-m", "bitcoin_sprint.control.cli", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pattern = f"sprint.demo-{demo.pid}.blocks"
    try:
        while not (Path("/dev/shm") / pattern).exists():
            assert demo.poll() is None, demo.stderr.read()
        os.killpg(demo.pid, signal.SIGINT)
        out, err = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 0, err
    assert "tiers with 0 gaps" in out
    assert "Traceback" not in err
    assert not list(Path("/dev/shm").glob(f"sprint.demo-{demo.pid}*"))
