"""``sprint tail``: its options and its lines."""

import pytest

from bitcoin_sprint.control import cli, tail_command
from bitcoin_sprint.control.tail_command import _line


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("tail", "--count", "0"),
        ("tail", "--count", "many"),
        ("tail", "--timeout", "0"),
        ("tail", "--timeout", "nan"),
        ("tail", "--timeout", "soon"),
        ("stat", "--interval", "often"),
        ("demo", "--seconds", "some"),
    ],
)
def test_a_bound_that_is_none_is_a_usage_error(command, option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, option, value])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert option in line
    assert repr(value) in line
    assert "must be" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--connect", "http://h:1"], "expected tcp://host:port"),
        (["--connect", "zmq+tcp://h:1", "--start", "oldest"], "only what comes from now on"),
    ],
)
def test_an_address_or_start_that_cannot_be_is_one_line_and_code_2(arguments, words, capsys):
    assert cli.main(["tail", *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize("columns", [30, 40, 59, 60, 100, 150, 300])
def test_a_line_fits_the_terminal_and_begins_with_the_time(columns):
    row = {
        "sequence": 7,
        "kind": "HEADER",
        "height": 840_000,
        "level": "connected",
        "flags": ["late"],
        "hash": "ab" * 32,
        "bytes": 80,
        "publish_ns": 1_700_000_000 * 10**9,
        "source": "p2p 1.2.3.4:8333",
    }
    line = _line(row, columns)
    assert line.startswith("22:13:20")
    assert "HEADER" in line
    assert "840000" in line or columns < 30
    assert len(line) <= max(columns, 160)
    if columns >= 150:
        assert row["hash"] in line
    else:
        assert len(line) <= columns


def test_what_was_lost_is_told_where_it_is_missing(monkeypatch, capsys):
    row = {"kind": "TX", "height": -1, "level": "unverified", "flags": [], "hash": "ab" * 32}
    row |= {"bytes": 80, "publish_ns": 0}
    rows = [row | {"sequence": sequence, "lost": lost} for sequence, lost in
            ((1, 0), (2, 0), (1_503, 1_500), (1_504, 1_500), (1_506, 1_501))]  # fmt: skip
    monkeypatch.setattr(tail_command, "_ring", lambda _: iter(rows))
    assert cli.main(["tail"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(lines) if line.startswith("--")] == [2, 5]
    assert lines[2] == "-- lost: 1,500"
    assert lines[5] == "-- lost: 1"


def test_without_a_standard_output_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    assert cli.main(["config", "show"]) == 1
    assert capsys.readouterr().err == (
        "sprint: standard output is closed: there is nowhere to write to\n"
    )
