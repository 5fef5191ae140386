"""The operator's command against a running engine, and the demo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import Engine, stream_address

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


def test_stat_shows_the_counters_of_every_process_or_of_one(engine):
    engine.until(lambda: _published(engine) > 0)
    figures = json.loads(_sprint("stat", "--instance", engine.instance, "--json").stdout)
    assert {"ingest", "sprintd", "relay-turbo"} <= {each["process"] for each in figures}
    shown = _sprint("stat", "ingest", "--instance", engine.instance).stdout
    assert "blocks_published" in shown
    assert "relay-turbo" not in shown


def _published(engine):
    out = _sprint("stat", "ingest", "--instance", engine.instance, "--json").stdout
    return json.loads(out)[0]["counters"]["blocks_published"]


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


def test_tail_of_an_address_where_nobody_answers_says_so():
    ended = _sprint("tail", "--connect", "tcp://127.0.0.1:1", code=1)
    assert ended.stderr == "sprint: tcp://127.0.0.1:1: no answer within the connect timeout\n"


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
