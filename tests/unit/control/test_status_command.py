"""The screen of ``sprint status``, at any width and with whatever is missing."""

import os
import subprocess
import sys

import msgspec
import pytest
from rich.cells import cell_len

from bitcoin_sprint.config import load
from bitcoin_sprint.control import cli, leftovers
from bitcoin_sprint.control.status import TURBO_STATUS, read_status, turbo_status
from bitcoin_sprint.errors import Corrupt
from bitcoin_sprint.ingest.source_state import SourceState
from bitcoin_sprint.metrics import Counters

INGEST = {
    "source.node-a.state": SourceState.WRONG_NETWORK,
    "source.node-a.attempts": 12,
    "source.node-a.episodes": 3,
    "source.node-a.since": 1,
    "source.p2p 10.0.0.5:8333.state": SourceState.READY,
    "source.p2p 10.0.0.5:8333.up": 1,
    "source.p2p 10.0.0.5:8333.blocks_won": 7,
    "source.of.another.version.state": 99,
}


@pytest.fixture
def instance():
    name = f"t{os.getpid()}-status"
    yield name
    leftovers.sweep(name)


@pytest.fixture
def made(instance):
    """Counters of processes that live as long as this test."""
    all_made = []

    def make(process, figures=(), labels=None):
        counters = Counters.create(instance, process, [], ["relay_ns"], labels)
        for name, value in dict(figures).items():
            counters.counter(name).set(value)
        all_made.append(counters)
        return counters

    yield make
    for counters in all_made:
        counters.close()


def _sprintd(made, **figures):
    status = msgspec.json.encode(turbo_status(load(None, {"tier": "turbo"}))).decode()
    labels = {"network": "main", "placement": "control.wait = block", TURBO_STATUS: status}
    return made("sprintd", figures, labels)


def _killed_sprintd(instance):
    script = (
        "import os\n"
        "from bitcoin_sprint.metrics import Counters\n"
        f"Counters.create({instance!r}, 'sprintd', ['process.relay-turbo.state'])\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_each_source_is_shown_with_its_episode(instance, made, capsys):
    _sprintd(made)
    made("ingest", INGEST)
    sources = {each["name"]: each for each in read_status(instance)["sources"]}
    assert sources["node-a"]["state"] == "wrong network"
    assert sources["node-a"]["since_s"] > 1e6
    assert (sources["node-a"]["attempts"], sources["node-a"]["episodes"]) == (12, 3)
    assert sources["p2p 10.0.0.5:8333"]["state"] == "ready"
    assert sources["of.another.version"]["state"] == "state 99"
    assert cli.main(["status", "--instance", instance]) == 0
    line = next(each for each in capsys.readouterr().out.splitlines() if "node-a" in each)
    assert line.split()[1:3] == ["wrong", "network"]


def test_each_tier_is_shown_with_its_subscribers_rates_and_percentiles(instance, made):
    _sprintd(made)
    figures = {"subscribers": 3, "frames_sent": 90, "frames_overwritten": 10}
    relay = made("relay-turbo", figures | {"buffer_used_frames": 512, "buffer_frames": 2048})
    for microseconds in range(1, 101):
        relay.histogram("relay_ns").record(microseconds * 1000)
    made("relay-free")
    free, turbo = read_status(instance)["relays"]
    assert (free["tier"], free["delivery_success_rate"], free["relay_us"]) == ("free", None, {})
    assert turbo["subscribers"] == 3
    assert turbo["delivery_success_rate"] == 0.9
    assert turbo["buffer_utilisation"] == 0.25
    assert list(turbo["relay_us"]) == ["p50", "p99", "p99.9"]
    assert turbo["relay_us"]["p99"] == pytest.approx(99, rel=0.03)


def test_a_dead_supervisor_whose_processes_serve_on_is_told(instance, made, capsys):
    _killed_sprintd(instance)
    made("relay-turbo", {"subscribers": 1}, {"network": "regtest"})
    status = read_status(instance)
    assert status["supervised"] is False
    states = {each["role"]: (each["state"], each["pid"]) for each in status["processes"]}
    assert states == {"sprintd": ("dead", 0), "relay-turbo": ("unsupervised", os.getpid())}
    assert cli.main(["status", "--instance", instance]) == 0
    assert "sprintd is dead; its processes serve on" in capsys.readouterr().out


def test_processes_without_any_trace_of_a_supervisor_are_shown_too(instance, made, capsys):
    made("ingest", INGEST, {"network": "signet"})
    assert cli.main(["status", "--instance", instance]) == 0
    shown = capsys.readouterr().out
    assert f"{instance} on signet" in shown
    assert "node-a" in shown


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_screen_fits_any_width_and_keeps_every_figure(
    instance, made, capsys, monkeypatch, columns
):
    monkeypatch.setenv("COLUMNS", str(columns))
    _sprintd(made, **{"process.ingest.state": 2, "process.ingest.pid": os.getpid()})
    made("ingest", INGEST)
    made("relay-turbo", {"frames_sent": 1234567})
    assert cli.main(["status", "--instance", instance]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(cell_len(line) <= columns for line in lines)
    words = " ".join(lines).split()
    assert {"1,234,567", "turbo", "500µs", "ingest", "10.0.0.5:8333"} <= set(words)


def test_noise_in_what_sprintd_says_is_one_clear_error(instance, made, capsys):
    made("sprintd", {}, {TURBO_STATUS: "{"})
    with pytest.raises(Corrupt, match="turbo_status is no JSON"):
        read_status(instance)
    assert cli.main(["status", "--instance", instance]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_how_a_process_sits_is_shown_and_noise_there_is_no_trouble(instance, made):
    _sprintd(made, **{"process.ingest.state": 77, "process.ingest.pid": 2**62})
    made("ingest", {}, {"settled": "noise"})
    (_, ingest) = read_status(instance)["processes"]
    assert (ingest["state"], ingest["placement"]) == ("state 77", None)
