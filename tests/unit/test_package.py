import subprocess
import sys
from pathlib import Path

import pytest

import bitcoin_sprint
from bitcoin_sprint import client, ring


def test_what_a_program_needs_is_found_by_name():
    assert bitcoin_sprint.Subscriber is client.Subscriber
    assert bitcoin_sprint.AsyncSubscriber is client.AsyncSubscriber
    assert bitcoin_sprint.Ring is ring.Ring
    assert all(hasattr(bitcoin_sprint, name) for name in bitcoin_sprint.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Moon'"):
        _ = bitcoin_sprint.Moon


def test_importing_the_package_loads_nothing_else():
    script = (
        "import sys, bitcoin_sprint;"
        "print(sorted(name for name in sys.modules if name.startswith('bitcoin_sprint')))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "['bitcoin_sprint']"


def test_a_c_program_finds_the_header_beside_the_package():
    header = Path(bitcoin_sprint.include_directory()) / "sprint.h"
    assert "sp_reader" in header.read_text(encoding="utf-8")
