"""The installed commands: Ctrl-C shows no stack trace, however early it comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Interrupts itself when the module named is loaded: the command is still loading its own.
_SCRIPT = """
import importlib, os, signal, sys
from bitcoin_sprint.control import entry

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "uvloop":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = [sys.argv[1], "demo"] if sys.argv[1] == "sprint" else sys.argv[1:]
sys.exit(getattr(entry, sys.argv[0])())
"""


@pytest.mark.parametrize("command", ["sprint", "sprintd"])
def test_ctrl_c_while_a_command_loads_shows_no_trace(command):
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, command], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr == ""


@pytest.mark.parametrize("command", ["sprint", "sprintd"])
def test_the_installed_commands_come_in_here(command):
    installed = Path(sys.executable).parent / command
    shown = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout[0].isdigit()
    assert "control.entry" in installed.read_text()
    assert os.access(installed, os.X_OK)
