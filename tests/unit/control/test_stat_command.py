"""``sprint stat``: what it makes of counters that come, go, or can't be read."""

import argparse
import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console, Group
from rich.text import Text

from bitcoin_sprint.control import cli, leftovers, stat_command
from bitcoin_sprint.control.stat_command import _fitted
from bitcoin_sprint.errors import HostError
from bitcoin_sprint.metrics import Counters, CountersView
from bitcoin_sprint.metrics.layout import HEADER_BYTES


@pytest.fixture
def instance():
    name = f"t{os.getpid()}-stat"
    yield name
    leftovers.sweep(name)


@pytest.fixture
def looks(instance):
    """Looks at ``instance``, one for each ``next``."""

    def begin(**options):
        given = {"process": [], "name": None, "once": False, "interval": 0.001, **options}
        return stat_command._looks(argparse.Namespace(instance=instance, **given))

    return begin


def test_rates_are_of_counts_over_the_time_between_two_looks(instance, looks):
    counters = Counters.create(instance, "ingest", ["blocks", "tip_height"], ["block_ns"])
    counters["blocks"].add(5)
    counters.histogram("block_ns").record(100)
    looking = looks()
    (first,) = next(looking)
    assert "rates" not in first
    assert first["histograms"]["block_ns"]["count"] == 1
    counters["blocks"].add(30)
    counters["tip_height"].set(800_000)
    counters.histogram("block_ns").record(100_000)
    (second,) = next(looking)
    assert second["counters"]["blocks"] == 35
    assert second["rates"]["blocks"] > 0
    assert "tip_height" not in second["rates"]
    assert second["interval_histograms"]["block_ns"]["count"] == 1
    counters.close()


def test_a_process_that_was_restarted_has_no_rate_until_the_next_look(instance, looks):
    counters = Counters.create(instance, "ingest", ["blocks"])
    counters["blocks"].add(1_000)
    looking = looks()
    next(looking)
    counters.close()
    counters = Counters.create(instance, "ingest", ["blocks"])
    (second,) = next(looking)
    assert "rates" not in second
    (third,) = next(looking)
    assert third["rates"]["blocks"] == 0
    counters.close()


def test_processes_and_figures_are_chosen_by_pattern(instance, looks):
    made = [
        Counters.create(instance, name, ["frames_sent", "gaps"])
        for name in ("relay-free", "relay-turbo", "ingest")
    ]
    look = next(looks(process=["relay-*"], name="frames_*", once=True))
    assert [each["process"] for each in look] == ["relay-free", "relay-turbo"]
    assert all(list(each["counters"]) == ["frames_sent"] for each in look)
    for counters in made:
        counters.close()


def test_one_segment_of_noise_is_told_and_the_others_are_shown(instance, capsys):
    good = Counters.create(instance, "ingest", ["blocks"])
    bad = Counters.create(instance, "relay-free", [], labels={"tier": "free"})
    with open(f"/dev/shm/sprint.{instance}.counters.relay-free", "r+b") as segment:
        segment.seek(HEADER_BYTES)
        segment.write(b"\xff\xff")
    assert cli.main(["stat", "--once", "--json", "--instance", instance]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["process"] == "ingest"
    assert len(err.splitlines()) == 1
    assert "relay-free: its labels are no JSON" in err
    good.close()
    bad.close()


@pytest.mark.parametrize("command", [["status"], ["stat", "--once"]])
def test_an_instance_of_somebody_else_ends_with_3(instance, capsys, monkeypatch, command):
    counters = Counters.create(instance, "sprintd", [])

    def refusing(*_):
        raise HostError(f"counters of {instance}: Permission denied")

    monkeypatch.setattr(CountersView, "attach", refusing)
    assert cli.main([*command, "--instance", instance]) == 3
    assert capsys.readouterr().err == f"sprint: counters of {instance}: Permission denied\n"
    counters.close()


def test_what_a_killed_engine_left_does_not_run(instance, capsys):
    script = (
        "import os\n"
        "from bitcoin_sprint.metrics import Counters\n"
        f"Counters.create({instance!r}, 'ingest', [])\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert cli.main(["stat", "--once", "--instance", instance]) == 4
    assert "of ingest only counters are left" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_interval_that_is_none_is_a_usage_error(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["stat", "--interval", seconds])
    assert ended.value.code == 2
    assert "--interval" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "lines"), [(40, 24), (80, 24), (200, 50), (80, 3)])
def test_a_screen_too_low_says_how_to_see_the_rest(columns, lines):
    console = Console(width=columns, height=lines, file=io.StringIO())
    drawn = Group(*(Text(f"figure {number}") for number in range(300)))
    shown = console.render_lines(_fitted(drawn, console), pad=False)
    assert len(shown) <= lines
    text = " ".join("".join(part.text for part in line).strip() for line in shown)
    seen = text.count("figure ")
    assert f"… {300 - seen} more lines: name processes, or --name PATTERN, or --once" in text
    assert seen >= lines - 3
    few = Group(Text("figure 0"))
    assert _fitted(few, console) is few
