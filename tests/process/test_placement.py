"""How an engine sits on its host: pinned where it may be, blocked where it must be, never failing.

The hot processes of the free tier are one, ingest: two cores are enough to pin it.
"""

import os
import sys
from pathlib import Path

import pytest
from engines import Engine

from bitcoin_sprint.control.topology import read_topology

_REFUSING = str(Path(__file__).parent.parent / "refusing_host.py")
_HOST = read_topology()
_USABLE = [core.cpus[0] for core in _HOST.cores]

needs_two_cores = pytest.mark.skipif(
    min(len(_USABLE), _HOST.quota_cores or 2) < 2, reason="needs two physical cores"
)


@pytest.fixture
def engine(request):
    """Start an engine of the free tier on two cores; ``launcher``: on which terms."""
    engines = []

    def started(*launcher, cores=None, tier="free", **keys):
        name = f"t{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
        engine = Engine(name, tier=tier, **keys)
        cpus = ",".join(map(str, _USABLE[:2] if cores is None else cores))
        engine.launcher = ["taskset", "-c", cpus, *launcher]
        engines.append(engine)
        return engine.start().ready()

    yield started
    for engine in engines:
        with engine:
            assert engine.stop() == 0


def _placements(engine):
    return {each["role"]: each for each in engine.status()["processes"]}


def _nice(process):
    return os.getpriority(os.PRIO_PROCESS, process["pid"])


def _locked_kib(process):
    lines = Path(f"/proc/{process['pid']}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))


def _absent_kib(process, name):
    """How much of the mappings of a file has no page yet."""
    absent, mine = 0, False
    for line in Path(f"/proc/{process['pid']}/smaps").read_text().splitlines():
        field, *rest = line.split()
        if not field.endswith(":"):
            mine = bool(rest) and rest[-1].endswith(name)
        elif mine and field in ("Size:", "Rss:"):
            absent += int(rest[0]) if field == "Size:" else -int(rest[0])
    return absent


def _warnings(engine):
    return [each["message"] for each in engine.events() if each["level"] not in ("info", "debug")]


@needs_two_cores
def test_with_a_core_to_spare_the_hot_process_is_pinned(engine):
    running = engine()
    first, second = _USABLE[:2]
    found = _placements(running)
    assert os.sched_getaffinity(found["ingest"]["pid"]) == {second}
    assert found["ingest"]["placement"]["core"] == second
    for role in ("sprintd", "relay-free"):
        # Nothing spins in this tier: others may use its core while it sleeps.
        assert os.sched_getaffinity(found[role]["pid"]) == {first, second}
        assert found[role]["placement"]["reasons"]["core"] == "not hot"
    assert (_nice(found["relay-free"]), _nice(found["ingest"])) == (10, 0)
    assert found["relay-free"]["placement"]["nice"] == 10
    assert found["ingest"]["placement"]["memory_locked"] == (_locked_kib(found["ingest"]) > 0)
    # No frame is the first to touch its page, whoever reads it.
    for role in ("ingest", "relay-free"):
        assert _absent_kib(found[role], f"sprint.{running.instance}.blocks") == 0
    assert running.status()["placement"] == "1 hot process, 2 cores"


def test_a_narrowed_affinity_is_a_smaller_machine(engine):
    running = engine(cores=_USABLE[-1:])
    assert running.status()["placement"] == "1 hot process, 1 core"
    for process in _placements(running).values():
        if process["placement"]:
            assert (process["placement"]["core"], process["placement"]["waits"]) == (None, "blocks")
    found = _placements(running)["ingest"]
    assert found["placement"]["reasons"]["core"] == "no core to spare: 1 hot process, 1 core"
    assert os.sched_getaffinity(found["pid"]) == set(_USABLE[-1:])


@needs_two_cores
def test_a_host_that_refuses_everything_costs_one_line_each_and_shows(engine):
    refusing = (sys.executable, _REFUSING, "--no-pinning", "--no-locking")
    running = engine(*refusing, relay__tiers__free__nice=-5)
    found = _placements(running)
    warnings = _warnings(running)
    assert [each.split(":")[0] for each in warnings] == [
        "no permission for pinning",
        "no permission for nice -5 (relay-free)",
        "memory is not locked",
    ]
    shown = found["ingest"]["placement"]
    assert (shown["core"], shown["memory_locked"]) == (None, False)
    assert shown["reasons"]["core"] == warnings[0]
    assert shown["reasons"]["memory_locked"] == warnings[2]
    assert found["relay-free"]["placement"]["reasons"]["nice"] == warnings[1]
    assert _nice(found["relay-free"]) == 0
    # Nor does a process that starts again repeat it.
    os.kill(found["ingest"]["pid"], 9)
    running.until(lambda: _placements(running)["ingest"]["pid"] not in (0, found["ingest"]["pid"]))
    running.ready()
    assert len(_warnings(running)) == len(warnings) + 1


@needs_two_cores
def test_without_optimize_system_nothing_is_touched(engine):
    running = engine(optimize_system=False)
    for process in _placements(running).values():
        assert os.sched_getaffinity(process["pid"]) == set(_USABLE[:2])
        assert _nice(process) == os.getpriority(os.PRIO_PROCESS, 0)
        assert _locked_kib(process) == 0
        if process["placement"]:
            assert process["placement"]["reasons"]["core"] == "optimize_system = false"
            assert not process["placement"]["gc_frozen"]


def test_told_to_spin_without_a_core_to_spare_it_spins_and_says_why_it_is_not_pinned(engine):
    running = engine(cores=_USABLE[:1], tier="turbo", control__wait="spin")
    found = _placements(running)
    turbo, ingest = found["relay-turbo"]["placement"], found["ingest"]["placement"]
    assert (turbo["waits"], turbo["reasons"]["waits"]) == ("spins", "control.wait = spin")
    assert (ingest["waits"], ingest["reasons"]["waits"]) == ("blocks", "waits for sockets")
    assert turbo["reasons"]["core"] == "no core to spare: 2 hot processes, 1 core"
    # It takes the core for half a second, and hardly ever gives it up by itself.
    before = _switches(found["relay-turbo"])
    running.until(
        lambda: _placements(running)["relay-turbo"]["cpu_s"] > found["relay-turbo"]["cpu_s"] + 0.5
    )
    assert _switches(found["relay-turbo"]) - before < 100


def _switches(process):
    """How often it gave its core up by itself."""
    lines = Path(f"/proc/{process['pid']}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
