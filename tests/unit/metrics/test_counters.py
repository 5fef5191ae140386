"""Counters in shared memory: the writing side, with its life and death."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitcoin_sprint.errors import HostError, WriterActive
from bitcoin_sprint.metrics import Counters, CountersView, label_process
from bitcoin_sprint.metrics import counters as module


def _segments(instance):
    return list(Path("/dev/shm").glob(f"sprint.{instance}.*"))


@pytest.fixture
def instance(monkeypatch):
    monkeypatch.setattr(module, "_process_labels", {})
    name = f"test-counters-{os.getpid()}"
    yield name
    assert not _segments(name), "a test left shared memory behind"


def test_adding_and_setting_change_the_figure(instance):
    counters = Counters.create(instance, "ingest", ["blocks", "peers"])
    counters["blocks"].add()
    counters["blocks"].add(41)
    counters["peers"].set(8)
    counters["peers"].set(3)
    assert (counters["blocks"].value, counters["peers"].value) == (42, 3)
    counters.close()


def test_a_counter_wraps_at_64_bits_instead_of_failing(instance):
    counters = Counters.create(instance, "ingest", ["n"])
    counters["n"].set((1 << 64) - 1)
    counters["n"].add(2)
    assert counters["n"].value == 1
    counters.close()


def test_an_unknown_counter_is_a_key_error_and_can_be_added(instance):
    counters = Counters.create(instance, "ingest", [])
    with pytest.raises(KeyError):
        counters["peer.1.blocks"]
    counters.counter("peer.1.blocks").add(5)
    assert counters.counter("peer.1.blocks") is counters["peer.1.blocks"]
    counters.close()


def test_a_removed_counter_makes_room_for_another(instance):
    counters = Counters.create(instance, "ingest", [])
    for number in range(1000):
        name = f"subscriber.{number}.frames"
        counters.counter(name).add(number)
        counters.remove(name)
    counters.remove("never there")
    counters.counter("last").add(1)
    view = CountersView.attach(instance, "ingest")
    assert view.snapshot()["counters"] == {"last": 1, "metrics.names_refused": 0}
    view.close()
    counters.close()


def test_without_room_a_counter_still_counts_and_the_refusal_is_counted(instance):
    counters = Counters.create(instance, "ingest", [])
    for number in range(300):
        counters.counter(f"n.{number}").add(number)
    for number in range(20):
        counters.histogram(f"h.{number}").record(number)
    view = CountersView.attach(instance, "ingest")
    figures = view.snapshot()
    assert figures["counters"]["n.191"] == 191
    assert "n.299" not in figures["counters"]
    assert figures["counters"]["metrics.names_refused"] == (300 - 192) + (20 - 8)
    assert len(figures["histograms"]) == 8
    view.close()
    counters.close()


def test_a_second_writer_is_refused_while_the_first_lives(instance):
    counters = Counters.create(instance, "ingest", [])
    with pytest.raises(WriterActive, match=rf"sprint\.{instance}\.counters\.ingest"):
        Counters.create(instance, "ingest", [])
    other = Counters.create(instance, "relay-turbo", [])
    other.close()
    counters.close()
    assert not _segments(instance)


def test_what_a_killed_process_left_is_replaced(instance):
    code = (
        "import os, signal, sys; from bitcoin_sprint.metrics import Counters;"
        "c = Counters.create(sys.argv[1], 'ingest', ['n']); c['n'].add(7);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, instance], check=False)
    stale = CountersView.attach(instance, "ingest")
    assert stale.snapshot()["counters"]["n"] == 7
    assert not stale.snapshot()["alive"]
    counters = Counters.create(instance, "ingest", ["n"])
    fresh = CountersView.attach(instance, "ingest")
    assert fresh.snapshot()["counters"]["n"] == 0
    assert fresh.snapshot()["alive"]
    assert stale.snapshot()["counters"]["n"] == 7
    fresh.close()
    stale.close()
    counters.close()


def test_closing_without_unlink_leaves_the_figures_to_be_read(instance):
    counters = Counters.create(instance, "ingest", ["n"])
    counters["n"].set(9)
    counters.close(unlink=False)
    counters.close()
    view = CountersView.attach(instance, "ingest")
    assert view.snapshot()["counters"]["n"] == 9
    view.close()
    Counters.create(instance, "ingest", []).close()


def test_no_room_on_the_host_is_a_clear_error_and_leaves_nothing(instance, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HostError, match="No space left") as caught:
        Counters.create(instance, "ingest", [])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["", "x" * 95, "µ" * 48])
def test_a_name_that_does_not_fit_is_refused(instance, name):
    with pytest.raises(ValueError, match="counter name"):
        Counters.create(instance, "ingest", [name])


def test_labels_that_do_not_fit_are_refused(instance):
    with pytest.raises(ValueError, match="labels"):
        Counters.create(instance, "ingest", [], labels={"text": "x" * 3968})


def test_the_mode_is_what_was_asked_whatever_the_umask(instance):
    counters = Counters.create(instance, "ingest", [], mode=0o600)
    (segment,) = _segments(instance)
    assert segment.stat().st_mode & 0o777 == 0o600
    counters.close()


def _labels(instance, process):
    view = CountersView.attach(instance, process)
    try:
        return view.snapshot()["labels"]
    finally:
        view.close()


def test_a_label_can_change_while_readers_look(instance):
    counters = Counters.create(instance, "ingest", [], labels={"network": "main"})
    counters.label("network", "regtest")
    counters.label("state", "x" * 100)
    counters.label("state", "short")
    assert _labels(instance, "ingest") == {"network": "regtest", "state": "short"}
    counters.close()


def test_a_label_without_room_is_refused_and_changes_nothing(instance):
    counters = Counters.create(instance, "ingest", [], labels={"network": "main"})
    with pytest.raises(ValueError, match="at most 3968"):
        counters.label("state", "x" * 4000)
    counters.label("other", "1")
    assert _labels(instance, "ingest") == {"network": "main", "other": "1"}
    counters.close()


def test_a_label_of_the_process_is_on_every_segment_it_has_and_will_have(instance):
    before = Counters.create(instance, "ingest", [], labels={"network": "main"})
    label_process("settled", "1")
    after = Counters.create(instance, "demo", [])
    assert _labels(instance, "ingest") == {"network": "main", "settled": "1"}
    assert _labels(instance, "demo") == {"settled": "1"}
    before.close()
    label_process("settled", "2")
    assert _labels(instance, "demo") == {"settled": "2"}
    after.close()


def test_labels_that_were_torn_by_a_kill_are_none(instance):
    counters = Counters.create(instance, "ingest", ["blocks"], labels={"network": "main"})
    counters._header[7] += 1  # a writer that was killed within a change
    counters._whole[128:130] = b"xx"
    counters["blocks"].add(3)
    view = CountersView.attach(instance, "ingest")
    snapshot = view.snapshot()
    assert (snapshot["labels"], snapshot["counters"]["blocks"]) == ({}, 3)
    view.close()
    counters.close()
