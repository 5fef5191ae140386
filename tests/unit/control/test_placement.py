"""Which processes are pinned, and who spins."""

from bitcoin_sprint.config import load
from bitcoin_sprint.control.placement import hot_roles, place


def test_ingest_and_the_memory_optimised_relays_are_hot():
    assert hot_roles(load()) == ["ingest", "relay-enterprise", "relay-turbo"]
    assert hot_roles(load(None, {"tier": "free"})) == ["ingest"]


def test_with_fewer_cores_than_hot_processes_everything_blocks():
    placement = place(load(), cores=[0, 1])
    assert not placement.spin
    assert placement.cpus == {}
    assert placement.reason == "3 hot processes, 2 cores"


def test_with_cores_to_spare_hot_processes_are_pinned_and_spin_and_core_0_is_left():
    placement = place(load(), cores=[0, 1, 2, 3])
    assert placement.spin
    assert placement.cpus == {"ingest": 1, "relay-enterprise": 2, "relay-turbo": 3}


def test_three_hot_processes_on_three_cores_block():
    assert not place(load(), cores=[0, 1, 2]).spin


def test_the_configuration_decides_over_the_host():
    assert not place(load(None, {"control.wait": "block"}), cores=range(64)).spin
    assert place(load(None, {"control.wait": "spin"}), cores=[0]).spin


def test_nothing_is_pinned_when_the_system_is_not_to_be_optimised():
    assert place(load(None, {"optimize_system": False}), cores=range(64)).cpus == {}


def test_the_kernel_is_asked_for_the_cores_that_we_may_use():
    assert place(load()).reason.endswith("cores")
