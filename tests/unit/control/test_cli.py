"""The command's own behaviour; its subcommands are tested against a running engine."""

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
