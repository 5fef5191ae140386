"""The host's cores, read from its own files: made-up machines under a folder."""

from __future__ import annotations

import os

import pytest

from bitcoin_sprint.control.topology import list_cpus, parse_cpus, read_topology


@pytest.fixture
def host(tmp_path):
    """Write the kernel's files: threads by core, nodes, isolated cores, control groups."""

    def made(cores, *, nodes=None, isolated="", files=()):
        online = sorted(cpu for core in cores for cpu in core)
        everything = {
            "sys/devices/system/cpu/online": list_cpus(online),
            "sys/devices/system/cpu/isolated": isolated,
            **{f"sys/devices/system/node/node{n}/cpulist": c for n, c in (nodes or {}).items()},
            **{
                f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": list_cpus(core)
                for core in cores
                for cpu in core
            },
            **dict(files),
        }
        for name, text in everything.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return made


def _cpus(topology):
    return [core.cpus for core in topology.cores]


@pytest.mark.parametrize(
    ("text", "cpus"), [("", set()), ("3", {3}), ("0-2,8,10-11\n", {0, 1, 2, 8, 10, 11})]
)
def test_the_kernels_lists_are_read_and_written(text, cpus):
    assert parse_cpus(text) == cpus
    assert list_cpus(cpus) == text.strip()


def test_threads_of_one_core_are_one_core(host):
    topology = read_topology(host([[0, 4], [1, 5], [2, 6], [3, 7]]), mask=range(8))
    assert _cpus(topology) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert [core.serves_kernel for core in topology.cores] == [True, False, False, False]
    assert topology.cpus == tuple(range(8))


def test_only_what_the_affinity_allows_is_ours(host):
    topology = read_topology(host([[0, 4], [1, 5], [2, 6], [3, 7]]), mask={4, 5, 6})
    assert _cpus(topology) == [(4,), (5,), (6,)]
    assert topology.cores[0].serves_kernel


def test_cores_know_their_memory_node(host):
    topology = read_topology(host([[0], [1], [2], [3]], nodes={0: "0-1", 1: "2-3"}), mask=range(4))
    assert [core.node for core in topology.cores] == [0, 0, 1, 1]


def test_isolated_cores_are_ours_where_nobody_narrowed_the_affinity(host):
    root = host([[0], [1], [2], [3]], isolated="2-3")
    topology = read_topology(root, mask={0, 1})
    assert _cpus(topology) == [(0,), (1,), (2,), (3,)]
    assert [core.isolated for core in topology.cores] == [False, False, True, True]


def test_a_narrowed_affinity_is_obeyed_to_the_letter(host):
    root = host([[0], [1], [2], [3]], isolated="3")
    assert _cpus(read_topology(root, mask={1})) == [(1,)]
    assert _cpus(read_topology(root, mask={1, 3})) == [(1,), (3,)]


def test_isolated_cores_of_others_are_not_ours(host):
    files = {
        "proc/self/cgroup": "0::/engine/main",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-3",
        "sys/fs/cgroup/engine/cpuset.cpus.effective": "0-2",
    }
    root = host([[0], [1], [2], [3]], isolated="2-3", files=files.items())
    assert _cpus(read_topology(root, mask={0, 1})) == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "100000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_the_tightest_bound_on_processor_time_is_found(host, files, cores):
    root = host([[0], [1]], files=files.items())
    assert read_topology(root, mask={0, 1}).quota_cores == cores


def test_a_host_that_tells_nothing_has_equal_cores(tmp_path):
    topology = read_topology(tmp_path, mask={0, 1, 2})
    assert _cpus(topology) == [(0,), (1,), (2,)]
    assert {core.node for core in topology.cores} == {0}
    assert topology.quota_cores is None


def test_this_host_is_read():
    assert set(read_topology().cpus) >= os.sched_getaffinity(0)
