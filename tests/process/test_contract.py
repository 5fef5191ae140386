"""What users already rely on, spelled exactly so: tiers, variables, JSON, log lines, metrics.

The names and values here are the contract itself: a test that fails says that somebody's script,
subscriber or grep would.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from engines import Engine, stream_address

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.config import load
from bitcoin_sprint.config.keys import KEYS
from bitcoin_sprint.control.status import features, turbo_line, turbo_status
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.frames import Kind

_TIERS = ("free", "pro", "business", "turbo", "enterprise")
_ALL_FEATURES = ["Shared Memory", "Direct P2P", "Memory Channel", "System Optimizations"]
_STARTING = "⚡ Starting memory-optimized sprint with tight deadlines"
_TURBO = "⚡ Turbo mode enabled: writeDeadline=500µs sharedMemory=true blockBufferSize=2048"
_RELAYED = re.compile(
    r"Turbo relay successful: elapsed=\d+(\.\d+)?(µs|ms|s) blockHash=(?P<hash>[0-9a-f]{64})"
)


def _status(tier: str, deadline: str, buffer: int, target: str) -> dict[str, Any]:
    tight = tier in ("turbo", "enterprise")
    return {
        "tier": tier,
        "turboModeEnabled": tight,
        "writeDeadline": deadline,
        "useSharedMemory": True,
        "blockBufferSize": buffer,
        "performanceTargets": {
            "blockRelayLatency": target,
            "writeDeadline": deadline,
            "bufferStrategy": "Overwrite old events (never miss)" if tight else "Best effort",
            "peerNotification": "Zero-copy shared memory" if tight else "Standard relay",
        },
    }


_STATUS = {
    "free": _status("free", "2s", 512, "<500ms (Free)"),
    "pro": _status("pro", "1.5s", 1280, "<100ms (Pro)"),
    "business": _status("business", "1s", 1536, "<50ms (Business)"),
    "turbo": _status("turbo", "500µs", 2048, "<10ms (Turbo)"),
    "enterprise": _status("enterprise", "200µs", 4096, "<5ms (Enterprise)"),
}


# ---- tiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "tier"),
    [*((name, name) for name in _TIERS), ("developer", "pro"), ("professional", "business")],
)
def test_a_tier_is_known_by_its_name_or_alias_in_any_case(given, tier):
    for spelled in (given, given.upper(), given.capitalize(), given.swapcase().title()):
        assert load(None, None, {"TIER": spelled}).tier == tier


def test_turbo_and_enterprise_run_memory_optimised_and_the_others_the_standard_relay():
    tiers = load().relay.tiers
    assert [name for name, tier in tiers.items() if tier.memory_optimised] == [
        "turbo",
        "enterprise",
    ]
    assert list(tiers) == list(_TIERS)


def test_the_configurations_fields_are_there_in_snake_case():
    for field in ("Tier", "WriteDeadline", "UseSharedMemory", "BlockBufferSize",
                  "EnableKernelBypass"):  # fmt: skip
        assert re.sub(r"(?<!^)(?=[A-Z])", "_", field).lower() in KEYS
    raised = load(None, {"tier": "turbo", "block_buffer_size": 65_536})
    assert turbo_status(raised)["blockBufferSize"] == 65_536


# ---- variables -------------------------------------------------------------------------------

_PEER, _NODE = "10.1.2.3:8333", "10.1.2.3:28332"
_VARIABLES = {
    "TIER": ("turbo", lambda c: [each.name for each in c.running_tiers], ["turbo"]),
    "USE_SHARED_MEMORY": ("false", lambda c: (c.use_shared_memory, c.ring.mode), (False, 0o600)),
    "USE_DIRECT_P2P": ("false", lambda c: c.use_direct_p2p, False),
    "USE_MEMORY_CHANNEL": ("false", lambda c: c.memory_channel, False),
    "OPTIMIZE_SYSTEM": ("false", lambda c: c.optimize_system, False),
    "BITCOIN_NODE": (_PEER, lambda c: c.ingest.p2p, (_PEER,)),
    "ZMQ_NODE": (_NODE, lambda c: [n.addresses for n in c.ingest.zmq], [(f"tcp://{_NODE}",)]),
}


@pytest.mark.parametrize("variable", _VARIABLES)
def test_a_variable_has_its_effect_from_the_environment_and_from_dotenv(tmp_path, variable):
    value, effect, expected = _VARIABLES[variable]
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"{variable}={value}\n")
    assert effect(load()) != expected
    assert effect(load(None, None, {variable: value})) == expected
    assert effect(load(None, None, {}, dotenv)) == expected


def test_defaults_in_turbo_and_enterprise():
    for tier in ("turbo", "enterprise"):
        config = load(None, None, {"TIER": tier})
        assert config.use_shared_memory
        assert config.use_direct_p2p
        assert config.use_memory_channel
        assert config.optimize_system
        assert not config.enable_kernel_bypass
        assert (config.ingest.p2p, config.ingest.zmq) == ((), ())


def test_enable_kernel_bypass_is_known_and_refused_while_there_is_no_second_backend():
    assert not load(None, None, {"ENABLE_KERNEL_BYPASS": "false"}).enable_kernel_bypass
    with pytest.raises(ConfigError, match="environment, ENABLE_KERNEL_BYPASS"):
        load(None, None, {"ENABLE_KERNEL_BYPASS": "true"})


# ---- status ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", _TIERS)
def test_the_status_of_each_tier_is_this(tier):
    status = turbo_status(load(None, None, {"TIER": tier, "BITCOIN_NODE": _PEER}))
    assert status == _STATUS[tier] | {"features": _ALL_FEATURES, "tiers": [_STATUS[tier]]}


def test_with_every_tier_the_highest_speaks_and_each_is_listed():
    status = turbo_status(load(None, None, {"BITCOIN_NODE": _PEER}))
    assert status == _STATUS["enterprise"] | {
        "features": _ALL_FEATURES,
        "tiers": [_STATUS[tier] for tier in _TIERS],
    }
    written = json.dumps(status, ensure_ascii=False)
    assert "500\u00b5s" in written, "µ is the micro sign"
    assert "\u03bc" not in written, "and not the Greek letter"


@pytest.mark.parametrize("on", list(itertools.product((True, False), repeat=4)))
def test_features_are_those_that_are_really_on(on):
    memory, p2p, channel, system = on
    config = load(
        None,
        None,
        {
            "BITCOIN_NODE": _PEER,
            "USE_SHARED_MEMORY": str(memory),
            "USE_DIRECT_P2P": str(p2p),
            "USE_MEMORY_CHANNEL": str(channel),
            "OPTIMIZE_SYSTEM": str(system),
        },
    )
    really = (memory, p2p, channel and memory, system)
    assert features(config) == [n for n, is_on in zip(_ALL_FEATURES, really, strict=True) if is_on]


def test_p2p_without_anybody_to_speak_with_is_not_on():
    nobody = {"network": "regtest"}  # for which there are no seeds
    assert "Direct P2P" not in features(load(None, nobody))
    assert "Direct P2P" in features(load(None, nobody, {"BITCOIN_NODE": _PEER}))
    assert "Direct P2P" in features(load())


# ---- running engines -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    """An engine with nothing of the contract's configured, and what came of its turbo tier."""
    name = f"t{os.getpid()}-contract"
    with Engine(name, sim__interval="100ms", log__level="info").start().ready() as running:
        with (
            Subscriber(stream_address(running, "turbo")) as turbo,
            Subscriber(stream_address(running, "enterprise")) as enterprise,
        ):
            streams = {"turbo": turbo.connect(), "enterprise": enterprise.connect()}
            heard = {tier: _hashes(stream) for tier, stream in streams.items()}
            command = [sys.executable, "-m", "bitcoin_sprint.control.cli", "status", "--json"]
            shown = subprocess.run(
                [*command, "--instance", name], capture_output=True, check=True, timeout=60
            ).stdout
        assert running.stop() == 0
        yield {"heard": heard, "events": running.events(), "status": json.loads(shown)}


def _hashes(subscriber: Subscriber) -> list[str]:
    hashes: list[str] = []
    while len(hashes) < 4:
        frame = subscriber.receive(30)
        assert frame is not None
        if frame.kind == Kind.BLOCK:
            hashes.append(frame.hash_hex)
    return hashes


def _messages(engine, process: str = "") -> list[str]:
    return [e["message"] for e in engine["events"] if process in ("", e["process"])]


def test_the_line_of_turbo_mode_is_logged_once_at_the_start(engine):
    assert Counter(_messages(engine))[_TURBO] == 1
    assert turbo_line(load()) == _TURBO


def test_each_memory_optimised_worker_says_that_it_starts_and_no_other(engine):
    said = {each["process"] for each in engine["events"] if each["message"] == _STARTING}
    assert said == {"relay-turbo", "relay-enterprise"}


@pytest.mark.parametrize("tier", ["turbo", "enterprise"])
def test_each_block_that_a_tight_tier_relayed_has_its_line(engine, tier):
    matches = [_RELAYED.fullmatch(message) for message in _messages(engine, f"relay-{tier}")]
    said = Counter(match["hash"] for match in matches if match)
    assert set(engine["heard"][tier]) <= set(said)
    assert set(said.values()) == {1}


def test_the_other_tiers_have_no_such_line(engine):
    for tier in ("free", "pro", "business"):
        assert not any(_RELAYED.search(each) for each in _messages(engine, f"relay-{tier}"))


def test_sprint_status_gives_the_turbo_status_and_the_processes(engine):
    status = engine["status"]
    contract = turbo_status(load(None, None, {"BITCOIN_NODE": _PEER}))
    assert {key: status[key] for key in contract} == contract
    roles = {each["role"]: each["state"] for each in status["processes"]}
    relays = [f"relay-{tier}" for tier in _TIERS]
    assert roles == dict.fromkeys(["sprintd", "sim", "ingest", *relays], "ready")


def test_the_relays_metrics_come_by_tier(engine):
    relays = {relay["tier"]: relay for relay in engine["status"]["relays"]}
    assert list(relays) == list(_TIERS)
    turbo = relays["turbo"]
    assert 0 < turbo["delivery_success_rate"] <= 1
    assert 0 <= turbo["buffer_utilisation"] <= 1
    assert turbo["frames_overwritten"] >= 0
    assert 0 < turbo["relay_us"]["p50"] <= turbo["relay_us"]["p99"] <= turbo["relay_us"]["p99.9"]
    assert relays["free"]["delivery_success_rate"] is None, "nobody subscribed there"


def test_variables_in_a_dotenv_reach_the_processes():
    with socket.create_server(("127.0.0.1", 0)) as node:
        engine = Engine(f"t{os.getpid()}-dotenv", sim__enabled=False, log__format="logfmt")
        (engine.folder / ".env").write_text(
            "TIER=Turbo\n"
            "USE_SHARED_MEMORY=false\n"
            "OPTIMIZE_SYSTEM=off\n"
            f"BITCOIN_NODE=127.0.0.1:{node.getsockname()[1]}\n"
        )
        with engine.start().ready() as running:
            node.settimeout(30)
            node.accept()[0].close()
            status = running.status()
            assert running.stop() == 0
            log = running.log()
    assert (status["tier"], status["useSharedMemory"]) == ("turbo", False)
    assert status["features"] == ["Direct P2P"]
    assert [tier["tier"] for tier in status["tiers"]] == ["turbo"]
    line = "⚡ Turbo mode enabled: writeDeadline=500µs sharedMemory=false blockBufferSize=2048"
    assert f" sprintd: {line}\n" in log, "word for word in this format too"
    assert f" relay-turbo: {_STARTING}\n" in log
    assert "no memory channel: use_shared_memory = false keeps the rings private" in log
