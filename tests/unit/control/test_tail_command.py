"""``sprint tail``: its options and its lines."""

import pytest

from bitcoin_sprint.control import cli
from bitcoin_sprint.control.tail_command import _line


@pytest.mark.parametrize("option", [["--count", "0"], ["--timeout", "0"], ["--timeout", "nan"]])
def test_a_bound_that_is_none_is_a_usage_error(option, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["tail", *option])
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


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
