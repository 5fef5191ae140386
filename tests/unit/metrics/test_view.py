"""Counters read by another process."""

import os
import threading
from pathlib import Path

import posix_ipc
import pytest

from bitcoin_sprint.errors import Corrupt, NotRunningError
from bitcoin_sprint.metrics import Counters, CountersView
from bitcoin_sprint.metrics.layout import HEADER_BYTES


@pytest.fixture
def instance():
    name = f"test-view-{os.getpid()}"
    yield name
    assert not list(Path("/dev/shm").glob(f"sprint.{name}.*"))


def test_a_snapshot_has_every_figure_and_who_wrote_it(instance):
    counters = Counters.create(instance, "relay-turbo", ["frames"], ["relay_ns"], {"tier": "turbo"})
    counters["frames"].add(3)
    for nanoseconds in (100, 200, 300):
        counters.histogram("relay_ns").record(nanoseconds)
    view = CountersView.attach(instance, "relay-turbo")
    before = view.snapshot()
    counters.heartbeat()
    after = view.snapshot()
    assert after["counters"]["frames"] == 3
    assert after["histograms"]["relay_ns"].percentile(50) == pytest.approx(200, rel=0.03)
    assert (after["pid"], after["alive"], after["process"]) == (os.getpid(), True, "relay-turbo")
    assert after["labels"] == {"tier": "turbo"}
    assert after["heartbeat"] > before["heartbeat"]
    view.close()
    view.close()
    counters.close()


def test_processes_of_an_instance_are_listed_and_no_others(instance):
    first = Counters.create(instance, "ingest", [])
    second = Counters.create(instance, "relay-free", [])
    other = Counters.create(f"{instance}-other", "ingest", [])
    assert CountersView.processes(instance) == ["ingest", "relay-free"]
    for counters in (first, second, other):
        counters.close()
    assert CountersView.processes(instance) == []


def test_a_process_that_does_not_run_is_named(instance):
    with pytest.raises(NotRunningError, match="relay-pro does not run"):
        CountersView.attach(instance, "relay-pro")


@pytest.mark.parametrize("size_bytes", [8, 128, 4096])
def test_a_segment_of_something_else_is_corrupt(instance, size_bytes):
    name = f"/sprint.{instance}.counters.ingest"
    shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=size_bytes)
    with pytest.raises(Corrupt, match=name):
        CountersView.attach(instance, "ingest")
    shared.close_fd()
    shared.unlink()


def test_a_segment_cut_short_is_corrupt(instance):
    counters = Counters.create(instance, "ingest", [])
    counters.close(unlink=False)
    os.truncate(f"/dev/shm/sprint.{instance}.counters.ingest", 4096)
    with pytest.raises(Corrupt, match="its header says"):
        CountersView.attach(instance, "ingest")
    Counters.create(instance, "ingest", []).close()


def test_a_segment_cut_short_under_its_reader_is_corrupt_and_kills_nobody(instance):
    counters = Counters.create(instance, "ingest", ["frames"])
    view = CountersView.attach(instance, "ingest")
    assert view.snapshot()["counters"]["frames"] == 0
    counters.close(unlink=False)
    path = f"/dev/shm/sprint.{instance}.counters.ingest"
    for size_bytes in (5000, 4096, 64, 0):
        os.truncate(path, size_bytes)
        with pytest.raises(Corrupt, match=f"cut short: {size_bytes} bytes"):
            view.snapshot()
    view.close()
    Path(path).unlink()


@pytest.mark.parametrize(
    "noise", [b"\xff\xfe\x00", b'{"tier": 5}  ', b'["tier"]', b'{"tier":"\xff\xff"}']
)
def test_noise_where_the_labels_stand_is_corrupt(instance, noise):
    counters = Counters.create(instance, "ingest", [], labels={"tier": "turbo"})
    view = CountersView.attach(instance, "ingest")
    with open(f"/dev/shm/sprint.{instance}.counters.ingest", "r+b") as segment:
        segment.seek(HEADER_BYTES)
        segment.write(noise)
    with pytest.raises(Corrupt, match="labels are no JSON of text"):
        view.snapshot()
    view.close()
    counters.close()


def test_names_that_come_and_go_never_show_a_half_written_name(instance):
    counters = Counters.create(instance, "ingest", ["steady"])
    view = CountersView.attach(instance, "ingest")
    stop = threading.Event()
    seen = []

    def look():
        while not stop.is_set():
            seen.append(set(view.snapshot()["counters"]))

    reader = threading.Thread(target=look)
    reader.start()
    names = ["a" * 40, "b" * 80]
    for number in range(3000):
        counters.counter(names[number % 2])
        counters.remove(names[number % 2])
    stop.set()
    reader.join()
    view.close()
    counters.close()
    allowed = {"steady", "metrics.names_refused", *names}
    assert seen
    assert all({"steady"} <= found <= allowed for found in seen)


def test_a_pipe_under_a_segments_name_is_refused_and_holds_nobody_up(instance):
    path = Path(f"/dev/shm/sprint.{instance}.counters.ingest")
    os.mkfifo(path)
    opened_for_it = []

    def open_other_end():
        opened_for_it.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    help_out = threading.Timer(20, open_other_end)
    help_out.start()
    with pytest.raises(Corrupt, match="not a regular file"):
        CountersView.attach(instance, "ingest")
    help_out.cancel()
    help_out.join()
    assert not opened_for_it
    path.unlink()
