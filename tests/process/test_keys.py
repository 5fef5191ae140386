"""Every key of default.toml has an effect: for each there is a check that fails were it ignored.

Two engines run with nothing at its default, one on a simulated node, one on nodes of the test;
what is seen of them is collected once, and each key's check looks for its own trace in it: a file,
a port, a process, a frame, a log line. Keys whose effect can't be seen within seconds are checked
at the very function by which the process decides.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import grp
import json
import os
import re
import signal
import socket
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from engines import Engine
from intake_rig import PEER, rigs
from regtest_blocks import chain_of, transaction

from bitcoin_sprint.chains import network
from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.config import Config, load
from bitcoin_sprint.config.load import DEFAULT_FILE
from bitcoin_sprint.control.placement import place
from bitcoin_sprint.control.topology import Core, Topology
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.ingest.feed import NO_STAMPS, Feed, Sink, Verdict
from bitcoin_sprint.ingest.process import transaction_frames
from bitcoin_sprint.ingest.simulator.process import Simulation
from bitcoin_sprint.ingest.sources import SourceTable, build_feeds, node_sources
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.relay.process import worker_options
from bitcoin_sprint.ring import Ring
from bitcoin_sprint.tiers import TIERS, situation_of
from bitcoin_sprint.tiers.cursor import Situation
from bitcoin_sprint.transports.zmq_pub import ZmqPublisher

_SHM = Path("/dev/shm")
_HOST = "127.0.0.2"
_BLOCKS_SEEN = 12
_LOOK_S = 30.0

_SMALL_HOST, _LARGE_HOST = (
    Topology(tuple(Core((cpu,), 0, False, cpu == 0) for cpu in range(count))) for count in (1, 64)
)


def _group() -> str:
    """A group that files of ours can be given to and don't have anyway, where there is one."""
    others = [gid for gid in os.getgroups() if gid != os.getegid()]
    gid = others[0] if others else 1 if os.geteuid() == 0 else os.getegid()
    return grp.getgrgid(gid).gr_name


def _buffer(tier: str) -> int:
    return 20 + list(TIERS).index(tier)


def _nice(tier: str) -> int:
    return 9 - list(TIERS).index(tier)


# ---- an engine on a simulated node -----------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    public, secret = zmq.curve_keypair()
    (folder / "curve").write_text(secret.decode())
    engine = Engine(f"t{os.getpid()}-keys")
    engine.keys |= {
        "use_memory_channel": False,
        "ring.blocks_slots": 256,
        "ring.tx_slots": 512,
        "ring.blocks_arena": "24MiB",
        "ring.tx_arena": "7MiB",
        "ring.mode": "0644",
        "ring.group": _group(),
        "sim.interval": "60ms",
        "sim.transactions_min": 7,
        "sim.transactions_max": 7,
        "relay.bind_host": _HOST,
        "relay.level": "connected",
        "relay.zmq_curve_key_file": str(folder / "curve"),
        "relay.unix_directory": str(folder),
        "control.stop_timeout": "1800ms",  # a third of it for each stage
        "control.restart_delay_min": "120ms",
        "control.restart_delay_max": "150ms",
        "log.level": "debug",
        "log.format": "json",
    }
    for tier in TIERS:
        engine.keys[f"relay.tiers.{tier}.buffer_frames"] = _buffer(tier)
        engine.keys[f"relay.tiers.{tier}.nice"] = _nice(tier)
    with engine.start().ready() as running:
        seen = _look_at(running, folder, public.decode())
        for _ in range(2):
            running.kill("relay-free")
        seen["status"] = running.status()
        seen["stop_s"] = _stop_with_one_stopped(running, "relay-pro")
        seen["events"] = running.events()
    return seen


def _look_at(engine: Engine, folder: Path, curve_key: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"engine": engine, "keys": dict(engine.keys)}
    seen["blocks"] = _blocks(engine.instance)
    seen["files"] = {path.name: path.stat() for path in _SHM.glob(f"sprint.{engine.instance}.*")}
    with_blocks, with_tx = (Ring.attach(engine.instance, name) for name in ("blocks", "tx"))
    seen["slots"] = {"blocks": with_blocks.slot_count, "tx": with_tx.slot_count}
    seen["arenas"] = {"blocks": with_blocks.arena_bytes, "tx": with_tx.arena_bytes}
    seen["network"] = with_blocks.network
    with_blocks.close()
    with_tx.close()
    seen["data"] = {path.name for path in (engine.folder / "data").iterdir()}
    seen["nice"] = {tier: psutil.Process(engine.pid(f"relay-{tier}")).nice() for tier in TIERS}
    seen["listening"] = {
        (each.laddr.ip, each.laddr.port)
        for each in psutil.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    seen["welcomes"] = {}
    for tier in TIERS:
        address = f"tcp://{_HOST}:{engine.keys[f'relay.tiers.{tier}.stream_port']}"
        with Subscriber(address, start="oldest").connect() as subscriber:
            seen["welcomes"][tier] = subscriber.welcome
    with Subscriber(f"unix://{folder}/{engine.instance}.turbo.sock").connect() as subscriber:
        seen["unix"] = subscriber.welcome
    port = engine.keys["relay.tiers.turbo.zmq_port"]
    with (
        Subscriber(f"zmq+tcp://{_HOST}:{port}", curve_server_key=curve_key) as knowing,
        Subscriber(f"zmq+tcp://{_HOST}:{port}") as ignorant,
    ):
        seen["curve"] = knowing.receive(_LOOK_S) is not None, ignorant.receive(0.2) is not None
    return seen


def _blocks(instance: str) -> list[tuple[int, int]]:
    """Publish time and transactions of blocks as they are mined."""
    found: list[tuple[int, int]] = []
    with contextlib.closing(Ring.attach(instance, "blocks")) as ring, ring.reader() as reader:
        while len(found) < _BLOCKS_SEEN:
            frame = reader.wait(_LOOK_S)
            assert frame is not None, "no block came"
            if frame.kind == Kind.BLOCK:
                found.append((frame.publish_ns, len(frame.txids)))
    return found


def _stop_with_one_stopped(engine: Engine, role: str) -> float:
    """Stop the engine while one of its processes can't obey; the seconds that it took."""
    os.kill(engine.pid(role), signal.SIGSTOP)
    began = time.monotonic()
    assert engine.stop() == 0
    return time.monotonic() - began


# ---- an engine on nodes of the test ----------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rings")
    seen: dict[str, Any] = {"folder": folder}
    with (
        socket.create_server(("127.0.0.1", 0)) as peer,
        zmq.Context() as context,
        context.socket(zmq.PUB) as node,
    ):
        node.linger = 0
        port = node.bind_to_random_port("tcp://127.0.0.1")
        monitor = node.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        address = f"tcp://127.0.0.1:{port}"
        engine = Engine(f"t{os.getpid()}-keys-b")
        engine.keys |= {
            "tier": "turbo",
            "block_buffer_size": 33,
            "write_deadline": "700us",
            "use_shared_memory": False,
            "optimize_system": False,
            "ring.mode": "0644",
            "ring.directory": str(folder),
            "ingest.p2p": f"127.0.0.1:{peer.getsockname()[1]}",
            "ingest.zmq": json.dumps([{"name": "node-x", "addresses": [address]}]),
            "sim.enabled": False,
            "log.level": "warning",
            "log.format": "logfmt",
        }
        with engine.start().ready() as running:
            peer.settimeout(_LOOK_S)
            connection, _ = peer.accept()
            with connection:
                connection.settimeout(_LOOK_S)
                seen["magic"] = connection.recv(4)
            seen["zmq"] = bool(monitor.poll(_LOOK_S * 1000))
            running.until(lambda: "node-x" in _sources(running.instance))
            seen["files"] = {path.name: path.stat() for path in folder.iterdir()}
            seen["status"] = running.status()
            port = running.keys["relay.tiers.turbo.stream_port"]
            with Subscriber(f"tcp://127.0.0.1:{port}").connect() as subscriber:
                seen["welcome"] = subscriber.welcome
            assert running.stop() == 0
            seen["log"] = running.log()
        monitor.close()
    return seen


def _sources(instance: str) -> set[str]:
    with contextlib.closing(CountersView.attach(instance, "ingest")) as view:
        names = view.snapshot()["counters"]
    return {name.split(".")[1] for name in names if name.startswith("source.")}


@pytest.fixture
def seen(request):
    """Both engines, each started when a check first asks for it."""
    return lambda name: request.getfixturevalue(name)


# ---- checks ----------------------------------------------------------------------------------


def _situation(tier: str, keys: dict[str, object], **stands: int) -> Situation:
    policy = load(None, keys).relay.tiers[tier]
    frame = {"age_ns": 0, "write_ns": 0, "lag": 1, **stands}
    return situation_of(policy, **frame, live=True, whole=True)


def _feed_names(**overrides: object) -> list[str]:
    config = load(None, {"ingest.p2p": ["127.0.0.9:8333"], **overrides})

    async def names() -> list[str]:
        with rigs() as made:
            return [feed.name for feed in _feeds(config, made.start().intake)]

    return asyncio.run(names())


def _feeds(config: Config, intake: Sink) -> list[Feed]:
    table = SourceTable(lambda *_: None)
    sources = node_sources(config, table)
    return build_feeds(config, network(config.network), intake, table, sources)


def _replayed_s(folder: Path, **overrides: object) -> float:
    """Seconds that a replay of three blocks, ten minutes from each other, takes."""
    for number, block in enumerate(chain_of(3)):
        (folder / f"{number}").write_bytes(block.raw)
    keys = {"network": "regtest", "use_direct_p2p": False, "ingest.replay": [str(folder)]}
    config = load(None, keys | overrides)

    async def replay() -> float:
        with rigs() as made:
            (feed,) = _feeds(config, made.start().intake)
            began = time.monotonic()
            await feed.run()
            assert feed.snapshot()["progress"]["accepted"] == 3
            return time.monotonic() - began

    return asyncio.run(replay())


def _transaction_verdicts(count: int, *again: int, **overrides: object) -> list[Verdict]:
    """What becomes of ``count`` transactions of a peer, then of those ``again``."""
    config, regtest = load(None, overrides), network("regtest")
    with rigs() as made:
        rig = made.start()
        frames = transaction_frames(config, rig.tx_writer, regtest, lambda: 0.0)
        return [
            frames.take(PEER, transaction(number)[0], NO_STAMPS, Level.UNVERIFIED).verdict
            for number in (*range(count), *again)
        ]


def _simulation(**keys: object) -> Simulation:
    overrides = {f"sim.{name}": value for name, value in keys.items()}
    config = load(None, {"network": "regtest", "sim.enabled": True, **overrides})
    simulation = Simulation(config.sim, clock=lambda: 1_700_000_000)
    simulation.prepare()
    return simulation


def _deepest_reorg(depth_max: int) -> int:
    simulation = _simulation(reorg_every=1, reorg_depth_max=depth_max)
    return max(len(simulation.step()) - 1 for _ in range(24))


def _modes(files: dict[str, os.stat_result]) -> dict[str, int]:
    return {name.rpartition(".")[2]: each.st_mode & 0o777 for name, each in files.items()}


def _messages(seen: dict[str, Any], words: str) -> list[dict[str, Any]]:
    return [event for event in seen["events"] if words in event["message"]]


def _check_data_dir(seen):
    assert "simulated.headers" in seen("simulated")["data"]


def _check_instance(seen):
    instance = seen("simulated")["engine"].instance
    assert {f"sprint.{instance}.blocks", f"sprint.{instance}.tx"} <= set(seen("simulated")["files"])


def _check_network(seen):
    assert seen("nodes")["magic"] == network("regtest").magic
    assert seen("simulated")["network"] == seen("simulated")["unix"].network == "regtest"


def _check_tier(seen):
    roles = {each["role"] for each in seen("nodes")["status"]["processes"]}
    assert roles == {"sprintd", "ingest", "relay-turbo"}


def _check_write_deadline(seen):
    assert seen("nodes")["status"]["writeDeadline"] == "700µs"
    keys = {"tier": "turbo", "write_deadline": "700us"}
    assert _situation("turbo", {}, write_ns=600_000) is Situation.WRITE_PAST_DEADLINE
    assert _situation("turbo", keys, write_ns=600_000) is Situation.ON_TIME


def _check_block_buffer_size(seen):
    assert seen("nodes")["status"]["blockBufferSize"] == 33
    keys = {"tier": "turbo", "block_buffer_size": 33}
    assert _situation("turbo", keys, lag=34) is Situation.PAST_BUFFER
    assert _situation("turbo", {}, lag=34) is Situation.ON_TIME


def _check_use_shared_memory(seen):
    modes = _modes(seen("nodes")["files"])
    assert {modes["blocks"], modes["tx"]} == {0o600}, "though ring.mode says 0644"
    assert seen("nodes")["welcome"].memory_instance == ""
    assert "no memory channel: use_shared_memory = false" in seen("nodes")["log"]


def _check_use_direct_p2p(_seen):
    assert "p2p 127.0.0.9:8333" in _feed_names()
    assert _feed_names(use_direct_p2p=False) == []


def _check_use_memory_channel(seen):
    assert seen("simulated")["welcomes"]["turbo"].memory_instance == ""
    config = load(None, {"instance": "x"})
    assert worker_options(config, config.relay.tiers["turbo"]).memory_channel


def _check_optimize_system(seen):
    frozen = {
        name: {
            each["placement"]["gc_frozen"]
            for each in seen(name)["status"]["processes"]
            if each["role"].startswith("relay-")
        }
        for name in ("simulated", "nodes")
    }
    assert frozen == {"simulated": {True}, "nodes": {False}}
    assert place(load(None, {"optimize_system": True}), _LARGE_HOST).cpus
    assert not place(load(None, {"optimize_system": False}), _LARGE_HOST).cpus


def _check_enable_kernel_bypass(_seen):
    with pytest.raises(ConfigError, match="no second egress backend"):
        load(None, {"enable_kernel_bypass": True})


def _check_ring_mode(seen):
    modes = _modes(seen("simulated")["files"])
    assert {modes["blocks"], modes["tx"]} == {0o644}


def _check_ring_group(seen):
    gid = grp.getgrnam(_group()).gr_gid
    named = seen("simulated")["files"].items()
    owned = {each.st_gid for name, each in named if name.endswith((".blocks", ".tx"))}
    assert owned == {gid}


def _check_ring_directory(seen):
    names = {name.rpartition(".")[2] for name in seen("nodes")["files"]}
    assert {"blocks", "tx"} <= names


def _check_ingest_p2p(seen):
    assert seen("nodes")["magic"]


def _check_ingest_zmq(seen):
    assert seen("nodes")["zmq"], "nobody subscribed at the node"


def _check_dns_seeds(_seen):
    assert len(_feed_names()) == 8
    assert _feed_names(**{"ingest.dns_seeds": False}) == ["p2p 127.0.0.9:8333"]


def _check_outbound_count(_seen):
    assert len(_feed_names(**{"ingest.outbound_count": 3})) == 3


def _check_replay(_seen):
    assert "replay" in _feed_names(**{"ingest.replay": [str(DEFAULT_FILE)]})
    assert "replay" not in _feed_names()


def _check_replay_speed(_seen):
    with tempfile.TemporaryDirectory() as folder:
        assert _replayed_s(Path(folder), **{"ingest.replay_speed": "3000x"}) >= 0.4


def _check_replay_delay(_seen):
    with tempfile.TemporaryDirectory() as folder:
        assert _replayed_s(Path(folder), **{"ingest.replay_delay": "400ms"}) >= 0.4


def _check_peer_transactions_per_s(_seen):
    verdicts = _transaction_verdicts(13, **{"ingest.peer_transactions_per_s": 1})
    assert verdicts[:10] == [Verdict.ACCEPTED] * 10
    assert verdicts[10:] == [Verdict.REFUSED] * 3


def _check_transactions_remembered(_seen):
    verdicts = _transaction_verdicts(1_001, 0, 1_000, **{"ingest.transactions_remembered": 1_000})
    assert verdicts[1_001:] == [Verdict.ACCEPTED, Verdict.DUPLICATE]


def _check_sim_enabled(seen):
    roles = {
        name: {each["role"] for each in seen(name)["status"]["processes"]}
        for name in ("simulated", "nodes")
    }
    assert "sim" in roles["simulated"] - roles["nodes"]


def _check_sim_port(seen):
    assert ("127.0.0.1", seen("simulated")["keys"]["sim.port"]) in seen("simulated")["listening"]


def _check_sim_interval(seen):
    times = [publish_ns for publish_ns, _ in seen("simulated")["blocks"]]
    assert (times[-1] - times[0]) / 1e9 < (len(times) - 1) * 0.5 / 2, "half the default's time"


def _check_sim_transactions(seen):
    counts = collections.Counter(count for _, count in seen("simulated")["blocks"])
    assert counts.most_common(1)[0][0] == 1 + 7, counts


def _check_reorg_every(_seen):
    simulation = _simulation(reorg_every=2)
    for _ in range(9):
        simulation.step()
    assert 3 <= simulation.snapshot()["reorgs"] <= 9


def _check_reorg_depth_max(_seen):
    assert _deepest_reorg(1) == 1
    assert 3 < _deepest_reorg(6) <= 6


def _check_sim_seed(_seen):
    tips = [_simulation(seed=seed).chain.tip for seed in (1, 1, 2)]
    assert tips[0] == tips[1] != tips[2]


def _check_bind_host(seen):
    port = seen("simulated")["keys"]["relay.tiers.free.stream_port"]
    assert (_HOST, port) in seen("simulated")["listening"]
    assert ("127.0.0.1", port) not in seen("simulated")["listening"]


def _check_relay_level(seen):
    levels = {event["core_level"] for event in _messages(seen("simulated"), "relay listens")}
    assert levels == {"connected"}, "no node is trusted here: auto would be merkle"


def _check_zmq_high_water_mark(_seen):
    config = load(None, {"relay.zmq_high_water_mark": 77})
    mark = worker_options(config, config.relay.tiers["free"]).zmq_high_water_mark
    publisher = ZmqPublisher(high_water_mark=mark)
    assert publisher._socket.getsockopt(zmq.SNDHWM) == 77
    publisher.close()


def _check_curve_key(seen):
    assert seen("simulated")["curve"] == (True, False)


def _check_unix_directory(seen):
    assert seen("simulated")["unix"].tier == "turbo"


def _check_wait(_seen):
    assert place(load(None, {"control.wait": "spin"}), _SMALL_HOST).spin
    assert not place(load(None, {"control.wait": "block"}), _LARGE_HOST).spin


def _check_ready_timeout(_seen):
    # Making a chain with coins for so many transactions takes longer.
    keys = {"tier": "free", "control__ready_timeout": "100ms", "sim__transactions_max": 4000}
    with Engine(f"t{os.getpid()}-late", **keys) as engine:
        assert engine.start().wait() == 1
        assert re.search(": not ready within 0.1 s", engine.log()), engine.log()


def _check_stop_timeout(seen):
    assert _messages(seen("simulated"), "relay-pro did not stop in time and is killed")
    assert 0.6 <= seen("simulated")["stop_s"] < 3.9


def _restart_delays(seen):
    died = _messages(seen("simulated"), "relay-free died")
    return [event["restart_in_s"] for event in died]


def _check_restart_delay_min(seen):
    assert _restart_delays(seen)[0] == 0.12


def _check_restart_delay_max(seen):
    assert _restart_delays(seen)[1] == 0.15, "not twice the least"


def _check_heartbeat_timeout(_seen):
    keys = {"tier": "free", "control__heartbeat_timeout": "2s"}
    with Engine(f"t{os.getpid()}-hang", **keys).start().ready() as engine:
        hung = engine.pid("relay-free")
        os.kill(hung, signal.SIGSTOP)
        engine.until(lambda: engine.serving("relay-free") not in (0, hung))
        assert engine.stop() == 0
        (error,) = [event["message"] for event in engine.events() if event["level"] == "error"]
        assert re.fullmatch(r"relay-free died \(no heartbeat for [23] s, so it was killed\)", error)


def _check_orphan_timeout(_seen):
    keys = {"tier": "free", "control__orphan_timeout": "200ms"}
    with Engine(f"t{os.getpid()}-orphan", **keys).start().ready() as engine:
        engine.kill_supervisor()
        deadline = time.monotonic() + _LOOK_S
        while any("process" in each for each in engine.leftovers()):
            assert time.monotonic() < deadline, engine.log()
            time.sleep(0.01)
        # Nothing else is left than the counters of the killed sprintd, for the next to sweep.
        (left,) = engine.leftovers()
        assert left.endswith(".counters.sprintd")
        assert engine.start().ready().stop() == 0


def _check_log_level(seen):
    assert any(event["level"] == "debug" for event in seen("simulated")["events"])
    levels = {line.split()[1] for line in seen("nodes")["log"].splitlines()}
    assert levels <= {"warning", "error"}, levels


def _check_log_format(seen):
    lines = seen("nodes")["log"].splitlines()
    assert lines
    assert all(re.match(r"20\d\d-\S+Z \w+ +[\w-]+: ", line) for line in lines)


def _tier_checks(tier: str) -> dict[str, Any]:
    policy = TIERS[tier]

    def target(_seen):
        age = policy.relay_target_ns // 2
        assert _situation(tier, {}, age_ns=age) is Situation.ON_TIME
        keys = {f"relay.tiers.{tier}.relay_target": f"{age // 2}ns"}
        assert _situation(tier, keys, age_ns=age) is Situation.AGED

    def deadline(_seen):
        taken = policy.write_deadline_ns // 2
        assert _situation(tier, {}, write_ns=taken) is Situation.ON_TIME
        keys = {f"relay.tiers.{tier}.write_deadline": f"{taken // 2}ns"}
        assert _situation(tier, keys, write_ns=taken) is Situation.WRITE_PAST_DEADLINE

    def frames(seen):
        granted = seen("simulated")["welcomes"][tier].blocks
        assert granted.newest - granted.oldest + 1 == _buffer(tier)

    def stream_port(seen):
        assert seen("simulated")["welcomes"][tier].tier == tier

    def zmq_port(seen):
        port = seen("simulated")["keys"][f"relay.tiers.{tier}.zmq_port"]
        assert (_HOST, port) in seen("simulated")["listening"]

    def nice(seen):
        assert seen("simulated")["nice"][tier] == _nice(tier)

    checks = {
        "relay_target": target,
        "write_deadline": deadline,
        "buffer_frames": frames,
        "stream_port": stream_port,
        "zmq_port": zmq_port,
        "nice": nice,
    }
    return {f"relay.tiers.{tier}.{name}": check for name, check in checks.items()}


def _sized(part: str, ring: str, expected: int) -> Any:
    def check(seen):
        assert seen("simulated")[part][ring] == expected

    return check


CHECKS: dict[str, Any] = {
    "instance": _check_instance,
    "network": _check_network,
    "data_dir": _check_data_dir,
    "tier": _check_tier,
    "write_deadline": _check_write_deadline,
    "block_buffer_size": _check_block_buffer_size,
    "use_shared_memory": _check_use_shared_memory,
    "use_direct_p2p": _check_use_direct_p2p,
    "use_memory_channel": _check_use_memory_channel,
    "optimize_system": _check_optimize_system,
    "enable_kernel_bypass": _check_enable_kernel_bypass,
    "ring.blocks_slots": _sized("slots", "blocks", 256),
    "ring.tx_slots": _sized("slots", "tx", 512),
    "ring.blocks_arena": _sized("arenas", "blocks", 24 << 20),
    "ring.tx_arena": _sized("arenas", "tx", 7 << 20),
    "ring.directory": _check_ring_directory,
    "ring.mode": _check_ring_mode,
    "ring.group": _check_ring_group,
    "ingest.p2p": _check_ingest_p2p,
    "ingest.dns_seeds": _check_dns_seeds,
    "ingest.outbound_count": _check_outbound_count,
    "ingest.peer_transactions_per_s": _check_peer_transactions_per_s,
    "ingest.transactions_remembered": _check_transactions_remembered,
    "ingest.replay": _check_replay,
    "ingest.replay_speed": _check_replay_speed,
    "ingest.replay_delay": _check_replay_delay,
    "ingest.zmq": _check_ingest_zmq,
    "sim.enabled": _check_sim_enabled,
    "sim.port": _check_sim_port,
    "sim.interval": _check_sim_interval,
    "sim.transactions_min": _check_sim_transactions,
    "sim.transactions_max": _check_sim_transactions,
    "sim.reorg_every": _check_reorg_every,
    "sim.reorg_depth_max": _check_reorg_depth_max,
    "sim.seed": _check_sim_seed,
    "relay.bind_host": _check_bind_host,
    "relay.level": _check_relay_level,
    "relay.zmq_high_water_mark": _check_zmq_high_water_mark,
    "relay.zmq_curve_key_file": _check_curve_key,
    "relay.unix_directory": _check_unix_directory,
    "control.wait": _check_wait,
    "control.ready_timeout": _check_ready_timeout,
    "control.stop_timeout": _check_stop_timeout,
    "control.restart_delay_min": _check_restart_delay_min,
    "control.restart_delay_max": _check_restart_delay_max,
    "control.heartbeat_timeout": _check_heartbeat_timeout,
    "control.orphan_timeout": _check_orphan_timeout,
    "log.level": _check_log_level,
    "log.format": _check_log_format,
}
for _tier in TIERS:
    CHECKS |= _tier_checks(_tier)


def _keys(table: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in table.items():
        inner = isinstance(value, dict)
        found += _keys(value, f"{prefix}{name}.") if inner else [prefix + name]
    return found


_KEYS = _keys(tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("key", _KEYS)
def test_the_key_has_an_effect(key, seen):
    assert key in CHECKS, f"{key}: give it a check that fails were the key ignored"
    CHECKS[key](seen)


def test_every_check_is_of_a_key_that_exists():
    assert set(CHECKS) <= set(_KEYS)
