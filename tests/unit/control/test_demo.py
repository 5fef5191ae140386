"""The demo's private instance."""

import socket
from contextlib import ExitStack

from bitcoin_sprint.control.demo import demo_config, free_ports


def test_a_taken_port_is_replaced_by_a_free_one_and_a_free_one_kept():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        busy = taken.getsockname()[1]
        with ExitStack() as claims:
            ports = free_ports({"a": busy, "b": free, "c": busy}, claims)
    assert ports["b"] == free
    assert busy not in ports.values()
    assert len(set(ports.values())) == 3


def test_the_demo_has_an_instance_of_its_own_with_every_tier(tmp_path):
    with ExitStack() as claims:
        config = demo_config(str(tmp_path), "250ms", "error", claims)
    assert config.instance.startswith("demo-")
    assert config.sim.enabled
    assert config.sim.interval_ns == 250_000_000
    assert config.data_dir == str(tmp_path)
    assert len(config.running_tiers) == 5
    assert config.log.level == "error"


def test_two_demos_started_together_do_not_choose_the_same_ports():
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    with ExitStack() as first, ExitStack() as second:
        # Nobody listens yet: each demo's relays will only once they have started.
        assert free_ports({"a": free}, first) == {"a": free}
        assert free_ports({"a": free}, second) != {"a": free}
    with ExitStack() as third:
        assert free_ports({"a": free}, third) == {"a": free}
