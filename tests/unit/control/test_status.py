"""The turbo status: names and values of the contract, spelled exactly so."""

import os
import subprocess
import sys

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import leftovers
from bitcoin_sprint.control.status import features, read_status, turbo_line, turbo_status
from bitcoin_sprint.errors import NotRunningError


def test_turbo_says_what_the_contract_says():
    overrides = {"tier": "turbo", "ingest.p2p": ["127.0.0.1:8333"]}
    status = turbo_status(load(None, overrides))
    tiers = status.pop("tiers")
    assert status == {
        "tier": "turbo",
        "turboModeEnabled": True,
        "writeDeadline": "500µs",
        "useSharedMemory": True,
        "blockBufferSize": 2048,
        "features": ["Shared Memory", "Direct P2P", "Memory Channel", "System Optimizations"],
        "performanceTargets": {
            "blockRelayLatency": "<10ms (Turbo)",
            "writeDeadline": "500µs",
            "bufferStrategy": "Overwrite old events (never miss)",
            "peerNotification": "Zero-copy shared memory",
        },
    }
    assert [tier["tier"] for tier in tiers] == ["turbo"]


def test_with_all_tiers_the_highest_speaks_and_each_is_listed():
    status = turbo_status(load())
    assert (status["tier"], status["writeDeadline"]) == ("enterprise", "200µs")
    assert status["performanceTargets"]["blockRelayLatency"] == "<5ms (Enterprise)"
    names = [tier["tier"] for tier in status["tiers"]]
    assert names == ["free", "pro", "business", "turbo", "enterprise"]


def test_the_best_effort_tiers_say_so():
    status = turbo_status(load(None, {"tier": "professional"}))
    assert not status["turboModeEnabled"]
    assert status["writeDeadline"] == "1s"
    assert status["performanceTargets"]["bufferStrategy"] == "Best effort"
    assert status["performanceTargets"]["blockRelayLatency"] == "<50ms (Business)"


def test_features_name_only_what_is_on():
    off = {
        "use_shared_memory": False,
        "use_direct_p2p": False,
        "optimize_system": False,
        "ingest.p2p": ["a:1"],
    }
    assert features(load(None, off)) == []
    assert "Direct P2P" not in features(load(None, {"ingest.dns_seeds": False}))


def test_the_turbo_line_is_the_contracts():
    assert turbo_line(load()) == (
        "⚡ Turbo mode enabled: writeDeadline=500µs sharedMemory=true blockBufferSize=2048"
    )
    assert turbo_line(load(None, {"tier": "business"})) is None


@pytest.mark.parametrize("size", [4096, 2048])
def test_a_raised_buffer_is_what_the_line_says(size):
    config = load(None, {"tier": "turbo", "block_buffer_size": size})
    assert f"blockBufferSize={size}" in (turbo_line(config) or "")


def test_what_a_killed_engine_left_is_no_running_one():
    instance = f"t{os.getpid()}-left"
    script = (
        "import os\n"
        "from bitcoin_sprint.metrics import Counters\n"
        f"counters = Counters.create({instance!r}, 'sprintd', [])\n"
        "os._exit(0)"
    )
    try:
        subprocess.run([sys.executable, "-c", script], check=True)
        with pytest.raises(NotRunningError, match="was killed"):
            read_status(instance)
    finally:
        leftovers.sweep(instance)
