"""What the configuration names on this host is looked at before anything starts."""

import pytest
import zmq

from bitcoin_sprint.config import check_host, load_with_sources
from bitcoin_sprint.errors import ConfigError


def _checked(overrides):
    loaded = load_with_sources(None, overrides)
    return check_host(loaded.config, loaded.sources)


def test_the_defaults_need_nothing():
    assert _checked({}) == []


def test_what_is_there_is_taken(tmp_path):
    key = tmp_path / "key"
    key.write_text(zmq.curve_keypair()[1].decode() + "\n")
    keys = {
        "relay.zmq_curve_key_file": str(key),
        "ring.directory": str(tmp_path),
        "ingest.replay": [str(key), str(tmp_path)],
    }
    assert _checked(keys) == []


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("ring.group", "no-such-group", "there is no such group"),
        ("ring.directory", "/nowhere", "there is no such folder"),
        ("ingest.replay", ["/nowhere/x.dat"], "cannot be read: No such file or directory"),
        ("relay.zmq_curve_key_file", "/nowhere/key", "cannot be read: No such file or directory"),
        ("relay.zmq_curve_key_file", "/etc/hostname", "40 characters of Z85"),
    ],
)
def test_what_is_not_there_is_named_with_its_value(key, value, why):
    with pytest.raises(ConfigError) as caught:
        _checked({key: value})
    text = value[0] if isinstance(value, list) else value
    assert str(caught.value).startswith(f"{key} = {text!r} (flag): ")
    assert why in str(caught.value)


def test_a_cookie_that_is_not_there_yet_is_a_warning(tmp_path):
    node = {
        "addresses": ["tcp://h:1"],
        "rpc_url": "http://h:8332",
        "rpc_cookie": str(tmp_path / ".cookie"),
    }
    (warning,) = _checked({"ingest.zmq": [node]})
    assert warning.startswith(f"ingest.zmq[0].rpc_cookie = '{tmp_path}/.cookie' (flag): ")
    (tmp_path / ".cookie").touch()
    assert _checked({"ingest.zmq": [node]}) == []
