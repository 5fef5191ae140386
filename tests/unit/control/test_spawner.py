"""Processes out of a nursery: whose they are, what they have, and what its death costs."""

import asyncio
import ctypes
import os
import signal
from pathlib import Path

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control import spawner as spawner_module
from bitcoin_sprint.control.roles import rooms_of, stages
from bitcoin_sprint.control.spawner import NurserySpawner
from bitcoin_sprint.errors import HostError


@pytest.fixture(autouse=True)
def _no_subreaper_afterwards():
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@pytest.fixture
async def spawner():
    spawner = NurserySpawner([])
    yield spawner
    await spawner.close()


class _Born:
    """A process that waits for an order which never comes; it ends when we hang up."""

    def __init__(self, handle, line):
        self.handle, self.pid = handle, handle.pid
        self._line = line

    async def end(self):
        self._line.close()
        async with asyncio.timeout(20):
            await self.handle.exited.wait()
        return self.handle.exit_code


async def _bear(spawner, role="relay-enterprise"):
    return _Born(*await spawner.spawn(role))


async def _named(born):
    """The process once it has its name, and so everything that it is to have."""
    async with asyncio.timeout(20):
        while _stat(born.pid)[0] != "relay-enterpris":  # the kernel cuts at 15
            await asyncio.sleep(0.01)
    return born


def _stat(pid):
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return name.partition("(")[2], rest.split()


async def test_a_process_is_ours_with_a_name_and_a_group_of_its_own(spawner):
    born = await _named(await _bear(spawner))
    _name, fields = _stat(born.pid)
    parent, group = int(fields[1]), int(fields[2])
    assert parent == os.getpid()
    assert group == born.pid
    titled = Path(f"/proc/{born.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert titled == b"sprintd: relay-enterprise"
    assert await born.end() == 1  # it had no order: its exit code comes to us


async def test_it_inherits_no_descriptor_but_its_line(spawner):
    first, second = await _named(await _bear(spawner)), await _named(await _bear(spawner))
    for born in (first, second):
        opened = {
            int(path.name): str(path.readlink()) for path in Path(f"/proc/{born.pid}/fd").iterdir()
        }
        sockets = [name for fd, name in opened.items() if fd > 2 and name.startswith("socket")]
        pipes = [name for fd, name in opened.items() if fd > 2 and name.startswith("pipe")]
        assert (len(sockets), pipes) == (1, [])
    # Nobody else holds its line: the end of one is the end of that one alone.
    assert await first.end() == 1
    assert second.handle.running
    assert await second.end() == 1


async def test_the_nursery_forks_from_one_thread_whatever_it_has_loaded():
    spawner = NurserySpawner(rooms_of(stages(load(None, {"network": "regtest"}), ["demo"])))
    born = await _named(await _bear(spawner))
    assert len(list(Path(f"/proc/{spawner._nursery.pid}/task").iterdir())) == 1
    assert await born.end() == 1
    await spawner.close()


async def test_a_hangup_is_its_supervisors_business(spawner):
    born = await _named(await _bear(spawner))
    os.kill(spawner._nursery.pid, signal.SIGHUP)
    os.kill(born.pid, signal.SIGHUP)
    assert await born.end() == 1
    assert await (await _bear(spawner)).end() == 1


async def test_a_nurserys_death_costs_nothing_but_another_nursery(spawner):
    first = await _bear(spawner)
    os.kill(spawner._nursery.pid, signal.SIGKILL)
    second = await _bear(spawner)
    assert first.handle.running
    assert int(_stat(second.pid)[1][1]) == os.getpid()
    assert (await first.end(), await second.end()) == (1, 1)


async def test_a_nursery_that_hangs_is_replaced(spawner, monkeypatch):
    monkeypatch.setattr(spawner_module, "_FORK_S", 0.3)
    first, hanging = await _bear(spawner), spawner._nursery.pid
    os.kill(hanging, signal.SIGSTOP)
    async with asyncio.timeout(20):
        second = await _bear(spawner)
    assert not Path(f"/proc/{hanging}").exists()
    assert (await first.end(), await second.end()) == (1, 1)


async def test_what_a_killed_nursery_bore_and_did_not_tell_of_ends(spawner, monkeypatch):
    real, untold = spawner._exchange, []

    async def die_untold(role, line):
        reply = await real(role, line)
        if untold:
            return reply
        untold.append(reply)
        os.kill(spawner._nursery.pid, signal.SIGKILL)
        return None

    monkeypatch.setattr(spawner, "_exchange", die_untold)
    born = await _named(await _bear(spawner))
    async with asyncio.timeout(20):
        while Path(f"/proc/{untold[0]}").exists():  # not even as a zombie
            spawner.tidy()
            await asyncio.sleep(0.01)
    assert born.handle.running
    assert await born.end() == 1


async def test_tidying_reaps_nobody_whose_end_is_awaited(spawner):
    born = await _bear(spawner)
    born.handle.kill()
    while _stat(born.pid)[1][0] != "Z":
        os.sched_yield()
    spawner.tidy()
    assert await born.end() == -signal.SIGKILL


async def test_tidying_reaps_a_dead_nursery(spawner):
    born = await _bear(spawner)
    pid = spawner._nursery.pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists():
            spawner.tidy()
            await asyncio.sleep(0.01)
    assert await born.end() == 1
    assert await (await _bear(spawner)).end() == 1


async def test_a_killed_process_tells_its_signal(spawner):
    born = await _bear(spawner)
    born.handle.kill()
    assert await born.end() == -signal.SIGKILL
    assert born.handle.ending == "signal SIGKILL"
    born.handle.terminate()  # after its end: nothing happens


@pytest.mark.parametrize("hangs", [False, True])
async def test_cancelled_it_leaves_no_process_behind(spawner, hangs):
    await (await _bear(spawner)).end()
    if hangs:
        os.kill(spawner._nursery.pid, signal.SIGSTOP)
    starting = asyncio.create_task(spawner.spawn("ingest"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await spawner.close()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"sprintd" in _command(pid)]


def _command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_nursery_that_cannot_load_is_an_error_of_one_line(capfd):
    spawner = NurserySpawner(["bitcoin_sprint.nowhere"])
    with pytest.raises(HostError, match="ingest: the nursery, which starts processes, dies"):
        await _bear(spawner, "ingest")
    await spawner.close()
    lines = capfd.readouterr().err.splitlines()
    assert set(lines) == {"sprintd: nursery: No module named 'bitcoin_sprint.nowhere'"}
