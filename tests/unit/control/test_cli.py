"""The command's own behaviour; its subcommands are tested against a running engine."""

import errno
import os
import sys

import pytest

from bitcoin_sprint.control import cli
from bitcoin_sprint.errors import ConfigError, HostError, NotRunningError, SprintError


@pytest.fixture
def failing(monkeypatch):
    """``sprint status`` that raises what it is given."""

    def prepare(error):
        def run(_arguments):
            raise error

        monkeypatch.setattr(cli.status_command, "run", run)

    return prepare


@pytest.mark.parametrize(
    ("error", "code"),
    [(SprintError, 1), (ConfigError, 2), (HostError, 3), (NotRunningError, 4)],
)
def test_an_error_is_one_line_and_its_exit_code(failing, capsys, error, code):
    failing(error("what is wrong"))
    assert cli.main(["status"]) == code
    assert capsys.readouterr().err == "sprint: what is wrong\n"


def test_ctrl_c_is_an_end_as_any(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().err == ""


def test_a_reader_of_our_output_may_leave_early(failing, monkeypatch):
    failing(BrokenPipeError())
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["status"]) == 0
    os.close(read_end)


def test_output_that_cannot_be_written_is_one_line_and_code_1(failing, monkeypatch, capsys):
    failing(OSError(errno.ENOSPC, "No space left on device"))
    with open(os.devnull, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == "sprint: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("command", ["status", "stat", "tail"])
@pytest.mark.parametrize("name", ["a/b", "../x", "", "x" * 300, "Main"])
def test_a_name_that_no_engine_can_have_is_a_usage_error(command, name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--instance", name])
    assert ended.value.code == 2
    assert "must match" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["nan", "-5", "0", "inf", "soon"])
def test_the_demo_runs_for_some_time_or_not_at_all(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--seconds", seconds])
    assert ended.value.code == 2
    assert "--seconds" in capsys.readouterr().err
