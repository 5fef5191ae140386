import os
import signal
import socket
import threading

import msgspec
import pytest
import zmq
from relay_rig import Rings, eventually, patient

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.config import Config, load
from bitcoin_sprint.errors import ConfigError, HostError, NotRunningError
from bitcoin_sprint.frames import Level
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.relay import process
from bitcoin_sprint.relay.process import core_level, worker_options


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


def config_of(rings, **keys) -> Config:
    free_ports = {
        f"relay.tiers.{tier}.{port}": 20_000 + 10 * number + offset
        for number, tier in enumerate(("free", "pro", "business", "turbo", "enterprise"))
        for offset, port in enumerate(("stream_port", "zmq_port"))
    }
    config = load(
        None, {"instance": rings.instance, "network": "regtest", **free_ports, **keys}, {}, None
    )
    tiers = {name: patient(name, nice=0) for name in config.relay.tiers}
    relay = msgspec.structs.replace(config.relay, tiers=tiers)
    return msgspec.structs.replace(config, relay=relay)


@pytest.mark.parametrize(
    ("level", "trusted", "expected"),
    [
        ("auto", None, Level.MERKLE),
        ("auto", False, Level.MERKLE),
        ("auto", True, Level.CONNECTED),
        ("merkle", True, Level.MERKLE),
        ("connected", None, Level.CONNECTED),
    ],
)
def test_the_drop_in_topics_speak_as_a_trusted_node_allows(rings, level, trusted, expected):
    nodes = []
    if trusted is not None:
        nodes = [{"addresses": ["tcp://127.0.0.1:1"], "trusted": trusted}]
    config = config_of(rings, **{"relay.level": level, "ingest.zmq": nodes})
    assert core_level(config) is expected


def test_the_configuration_becomes_the_workers_options(rings, tmp_path):
    secret = tmp_path / "curve"
    secret.write_text(zmq.curve_keypair()[1].decode() + "\n")
    config = config_of(
        rings,
        **{
            "relay.unix_directory": str(tmp_path),
            "relay.zmq_high_water_mark": 7,
            "relay.zmq_curve_key_file": str(secret),
            "control.wait": "spin",
        },
    )
    turbo = worker_options(config, config.relay.tiers["turbo"])
    assert turbo.unix_path == tmp_path / f"{rings.instance}.turbo.sock"
    assert (turbo.zmq_high_water_mark, turbo.spin, turbo.network) == (7, True, "regtest")
    assert turbo.zmq_curve_secret_key == secret.read_text().strip()
    assert worker_options(config, config.relay.tiers["free"]).spin is False


def test_a_key_file_that_is_not_there_is_a_configuration_error(rings, tmp_path):
    config = config_of(rings, **{"relay.zmq_curve_key_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"relay\.zmq_curve_key_file"):
        worker_options(config, config.relay.tiers["turbo"])


def test_it_waits_for_the_rings_serves_and_stops_on_sigterm(monkeypatch):
    """In this process's main thread, where signals arrive; the rings come later."""
    monkeypatch.setattr(process, "_raise_descriptor_limit", lambda: None)
    made = {}
    rings = Rings()
    rings.close()
    heard = []

    def make_rings_then_subscribe():
        rings.begin_anew()
        made["open"] = True
        assert ready.wait(10)
        port = workers[0].stream_port
        with Subscriber(f"tcp://127.0.0.1:{port}", tier="turbo").connect() as subscriber:
            rings.header(5)
            heard.append(subscriber.receive(10).height)
        os.kill(os.getpid(), signal.SIGTERM)

    ready = threading.Event()
    workers = []
    original = process.Worker

    def remembered(*arguments):
        workers.append(original(*arguments))
        return workers[0]

    monkeypatch.setattr(process, "Worker", remembered)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    other = threading.Thread(target=make_rings_then_subscribe)
    other.start()
    try:
        process.main(config_of(rings), "turbo", ready.set)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        other.join(10)
        rings.close()
    assert heard == [5]
    with pytest.raises(NotRunningError):
        CountersView.attach(rings.instance, "relay-turbo")


def test_a_taken_port_is_told_and_nothing_stays(rings, monkeypatch):
    monkeypatch.setattr(process, "_raise_descriptor_limit", lambda: None)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = config_of(rings)
        tiers = config.relay.tiers | {
            "free": patient("free", nice=0, stream_port=taken.getsockname()[1])
        }
        relay = msgspec.structs.replace(config.relay, tiers=tiers)
        config = msgspec.structs.replace(config, relay=relay)
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            with pytest.raises(HostError, match=r"tiers\.free\.stream_port = \d+: cannot listen"):
                process.main(config, "free", lambda: None)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    eventually(lambda: CountersView.processes(rings.instance) == [])
