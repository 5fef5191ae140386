"""Command-line options that decide the configuration."""

import argparse

import pytest

from bitcoin_sprint.control.options import add_config_options, loaded_config
from bitcoin_sprint.errors import ConfigError


def _loaded(*arguments):
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    return loaded_config(parser.parse_args(arguments))


def test_options_are_flags_over_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPRINT_INSTANCE", "environ")
    (tmp_path / ".env").write_text("SPRINT_NETWORK=signet\nTIER=free\n")
    loaded = _loaded("--tier", "Developer", "--set", "ring.blocks_arena=16MiB")
    config = loaded.config
    assert (config.instance, config.network, config.tier) == ("environ", "signet", "pro")
    assert config.ring.blocks_arena_bytes == 16 << 20
    assert loaded.sources["tier"] == "flag"
    assert _loaded("--instance", "flag").config.instance == "flag"


@pytest.mark.parametrize("assignment", ["instance", ""])
def test_an_assignment_without_a_value_is_refused(assignment):
    with pytest.raises(ConfigError, match="must be KEY=VALUE"):
        _loaded("--set", assignment)


def test_a_value_may_hold_an_equals_sign():
    assert _loaded("--set", "data_dir=/a=b").config.data_dir == "/a=b"
