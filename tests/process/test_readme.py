"""What the README shows is run as it stands, against a running engine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from engines import Engine

from bitcoin_sprint.config import load
from bitcoin_sprint.tiers import TIERS

_README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
_SNIPPET = re.compile(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def engine():
    with Engine(f"t{os.getpid()}-readme", tier="turbo").start().ready() as running:
        yield running


@pytest.mark.parametrize("name", ["reader", "subscriber"])
def test_a_snippet_prints_blocks_as_they_come(engine, name):
    code = dict(_SNIPPET.findall(_README))[name]
    port = str(engine.keys["relay.tiers.turbo.stream_port"])
    code = code.replace('"main"', f'"{engine.instance}"').replace("7403", port)
    running = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = running.stdout.readline()
    finally:
        running.kill()
        _, error = running.communicate()
    assert re.match(r"\d+ [0-9a-f]{64} \d+ ", line), line + error


def test_the_configuration_shown_is_right(tmp_path):
    (shown,) = re.findall(r"```toml\n(.*?)```", _README, re.DOTALL)
    assert tomllib.loads(shown)
    path = tmp_path / "sprint.toml"
    path.write_text(shown)
    assert load(path).ingest.zmq[0].trusted


def test_the_tiers_shown_are_the_table():
    for tier in TIERS.values():
        (row,) = [line for line in _README.splitlines() if line.startswith(f"| {tier.name} ")]
        assert f" {tier.buffer_frames:,} " in row
        assert f"{tier.stream_port}, {tier.zmq_port}" in row


def test_links_lead_somewhere():
    root = Path(__file__).resolve().parents[2]
    for target in re.findall(r"\]\(([^)#]+)\)", _README):
        if not target.startswith("http"):
            assert (root / target).exists(), target
