"""Which processes are pinned, and who spins."""

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control.placement import hot_roles, nice_of, place, seat
from bitcoin_sprint.control.topology import Core, Topology


def _machine(cores, quota=None):
    """(processors, node, isolated) of each core; alone a number of plain ones."""
    if isinstance(cores, int):
        cores = [((cpu,), 0, False) for cpu in range(cores)]
    return Topology(tuple(Core(c, n, i, 0 in c) for c, n, i in cores), quota)


def test_ingest_and_the_memory_optimised_relays_are_hot():
    assert hot_roles(load()) == ["ingest", "relay-enterprise", "relay-turbo"]
    assert hot_roles(load(None, {"tier": "free"})) == ["ingest"]


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_with_fewer_cores_than_hot_processes_and_one_everything_blocks(cores):
    placement = place(load(), _machine(cores))
    assert not placement.spin
    assert placement.cpus == {}
    counted = f"3 hot processes, {cores} core{'s' if cores > 1 else ''}"
    assert placement.reason == counted
    for role in ("ingest", "relay-turbo"):
        given = seat(load(), placement, role, {})
        assert (given.spins, given.core, given.cpus) == (False, None, ())
        assert given.reasons["core"] == f"no core to spare: {counted}"
        assert given.reasons["waits"] == counted


def test_with_cores_to_spare_hot_processes_are_pinned_and_spin_and_core_0_is_left():
    placement = place(load(), _machine(4))
    assert placement.spin
    assert placement.cpus == {"ingest": 1, "relay-enterprise": 2, "relay-turbo": 3}
    assert placement.rest == (0,)


def test_everything_else_keeps_off_the_hot_cores():
    placement = place(load(), _machine(6))
    assert seat(load(), placement, "relay-free", {}).cpus == (0, 4, 5)
    assert seat(load(), placement, "sprintd", {}).cpus == (0, 4, 5)
    # A loop that never sleeps leaves its core to no other thread; one that sleeps shares it.
    assert seat(load(), placement, "relay-turbo", {}).cpus == (0, 4, 5)
    assert seat(load(), placement, "ingest", {}).cpus == (1,)


@pytest.mark.parametrize("keys", [{"tier": "free"}, {"control.wait": "block"}])
def test_where_nothing_spins_others_may_use_a_hot_core_meanwhile(keys):
    config = load(None, keys)
    placement = place(config, _machine(4))
    assert placement.cpus["ingest"] == 1
    assert seat(config, placement, "relay-free", {}).cpus == (0, 1, 2, 3)
    isolated = place(config, _machine([((cpu,), 0, cpu > 0) for cpu in range(4)]))
    assert seat(config, isolated, "relay-free", {}).cpus == (0,)


def test_ingest_waits_for_sockets_and_says_so():
    given = seat(load(), place(load(), _machine(8)), "ingest", {})
    assert not given.spins
    assert given.reasons["waits"] == "waits for sockets"
    assert seat(load(), place(load(), _machine(8)), "relay-turbo", {}).spins


def test_two_hot_processes_never_share_a_physical_core():
    pairs = [((core, core + 4), 0, False) for core in range(4)]
    placement = place(load(), _machine(pairs))
    assert placement.cpus == {"ingest": 1, "relay-enterprise": 2, "relay-turbo": 3}
    # The other threads of the hot cores stay idle.
    assert placement.rest == (0, 4)


def test_threads_are_no_cores():
    placement = place(load(), _machine([((0, 2), 0, False), ((1, 3), 0, False)]))
    assert not placement.spin
    assert placement.reason == "3 hot processes, 2 cores with 4 threads"


def test_isolated_cores_come_first_and_nothing_else_goes_there():
    cores = [((cpu,), 0, cpu >= 5) for cpu in range(9)]
    placement = place(load(), _machine(cores))
    assert sorted(placement.cpus.values()) == [5, 6, 7]
    assert placement.rest == (0, 1, 2, 3, 4)


def test_hot_processes_stay_on_one_memory_node():
    cores = [((cpu,), 0 if cpu < 3 else 1, False) for cpu in range(8)]
    placement = place(load(), _machine(cores))
    assert sorted(placement.cpus.values()) == [3, 4, 5]
    # The rings' memory is taken by who starts there.
    assert placement.home == (3, 4, 5, 6, 7)
    assert seat(load(), placement, "ingest", {}).start_cpus == (3, 4, 5, 6, 7)
    assert seat(load(), placement, "relay-free", {}).start_cpus == ()


def test_no_node_is_large_enough_then_they_spread():
    cores = [((cpu,), cpu // 2, False) for cpu in range(4)]
    assert sorted(place(load(), _machine(cores)).cpus.values()) == [1, 2, 3]


def test_a_quota_on_processor_time_counts_as_fewer_cores():
    placement = place(load(), _machine(64, quota=2.5))
    assert not placement.spin
    assert placement.cpus == {}
    assert placement.reason == "3 hot processes, 64 cores, time for 2.5 (CPU quota)"
    assert place(load(), _machine(64, quota=4.0)).spin


def test_the_configuration_decides_over_the_host():
    blocks = place(load(None, {"control.wait": "block"}), _machine(64))
    assert (blocks.spin, blocks.reason) == (False, "control.wait = block")
    assert blocks.cpus
    spins = load(None, {"control.wait": "spin"})
    assert place(spins, _machine(1)).spin
    given = seat(spins, place(spins, _machine(1)), "relay-turbo", {})
    assert (given.spins, given.core) == (True, None)


def test_nothing_is_touched_when_the_system_is_not_to_be_optimised():
    config = load(None, {"optimize_system": False})
    placement = place(config, _machine(64))
    assert placement.cpus == {}
    given = seat(config, placement, "relay-turbo", {})
    assert not given.optimized
    assert (given.core, given.cpus, given.nice, given.lock_memory) == (None, (), None, False)
    assert given.reasons["core"] == "optimize_system = false"
    assert given.spins


def test_what_the_host_refuses_is_not_given_and_says_why():
    placement = place(load(), _machine(8))
    config = load(None, {"relay.tiers.turbo.nice": -5})
    refused = {"core": "no pinning", "memory_locked": "no locking", "nice": "no nice"}
    given = seat(config, placement, "relay-turbo", refused)
    assert (given.core, given.cpus, given.start_cpus) == (None, (), ())
    assert (given.nice, given.lock_memory) == (0, False)
    for field, reason in refused.items():
        assert given.reasons[field] == reason
    # A weight that needs no privilege is given all the same.
    assert seat(config, placement, "relay-free", refused).nice == 10


def test_ingest_weighs_as_much_as_the_first_of_its_readers():
    config = load(None, {"relay.tiers.enterprise.nice": -10})
    weights = {role: nice_of(config, role) for role in ("ingest", "relay-free", "relay-enterprise")}
    assert weights == {"ingest": -10, "relay-free": 10, "relay-enterprise": -10}
    assert nice_of(load(None, {"tier": "free"}), "ingest") == 0


def test_the_kernel_is_asked_for_the_cores_that_we_may_use():
    assert "cores" in place(load()).reason
