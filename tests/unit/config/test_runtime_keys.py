"""What can change at run time, and what a process is recognised by."""

import pytest

from bitcoin_sprint.config import (
    RUNTIME_KEYS,
    changed_keys,
    fixed_digest,
    load,
    with_runtime_keys,
)


def test_what_changed_is_told_in_the_order_of_the_schema():
    new = load(None, {"log.level": "debug", "sim.seed": 5, "instance": "other", "data_dir": "/x"})
    old = load(None, {"data_dir": "/x"})
    assert changed_keys(old, new) == ["instance", "sim.seed", "log.level"]
    assert changed_keys(old, old) == []


def test_only_keys_that_can_change_are_taken():
    running = load(None, {"tier": "turbo", "sim.seed": 1})
    new = load(
        None, {"tier": "turbo", "sim.seed": 5, "write_deadline": "2ms", "log.level": "error"}
    )
    merged = with_runtime_keys(running, new)
    assert merged.sim.seed == 1
    assert merged.log.level == "error"
    assert merged.relay.tiers["turbo"].write_deadline_ns == merged.write_deadline_ns == 2_000_000
    assert [key for key in changed_keys(running, merged) if key not in RUNTIME_KEYS] == []
    assert with_runtime_keys(running, running) == running


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("log.format", "json", True),
        ("relay.tiers.free.buffer_frames", 99, True),
        ("relay.tiers.free.stream_port", 9999, False),
        ("ingest.p2p", ["127.0.0.1:8333"], False),
    ],
)
def test_a_digest_stands_for_what_cannot_change(key, value, same):
    digest = fixed_digest(load(None, {key: value}), "relay-free")
    assert (digest == fixed_digest(load(), "relay-free")) is same
    assert digest != fixed_digest(load(None, {key: value}), "relay-pro")
