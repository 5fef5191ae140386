"""Both rings into the shared memory there is."""

from __future__ import annotations

import pytest

from bitcoin_sprint.errors import HostError
from bitcoin_sprint.ring import RingOptions, Writer, layout, plan, segment
from bitcoin_sprint.ring.sizing import SEGMENT_BYTES_MIN, rungs

BLOCKS = RingOptions(4096, 256 << 20)
TX = RingOptions(65536, 64 << 20)


def _free(monkeypatch: pytest.MonkeyPatch, mebibytes: float) -> None:
    monkeypatch.setattr(segment, "free_bytes", lambda _where: int(mebibytes * 2**20))


def test_with_room_enough_everybody_gets_what_they_asked(
    instance: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _free(monkeypatch, 1000)
    assert plan(instance, BLOCKS, TX) == {"blocks": BLOCKS, "tx": TX}
    assert caplog.text == ""


def test_a_containers_sixty_four_mebibytes_are_enough(
    instance: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _free(monkeypatch, 64)
    planned = plan(instance, BLOCKS, TX)
    assert planned["blocks"] == RingOptions(512, 32 << 20)
    assert planned["tx"] == RingOptions(8192, 8 << 20)
    assert "ring blocks sized down" in caplog.text
    assert "ring tx sized down" in caplog.text


def test_twenty_four_mebibytes_for_both_is_the_least(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(SEGMENT_BYTES_MIN.values()) == 24 << 20
    _free(monkeypatch, 24.01)
    planned = plan(instance, BLOCKS, TX)
    assert sum(options.segment_bytes for options in planned.values()) == 24 << 20
    assert planned["blocks"].arena_bytes // layout.PAYLOAD_SHARE > 5_000_000
    _free(monkeypatch, 23.9)
    with pytest.raises(HostError, match=r"23\.9 MiB of shared memory free, the rings need 24"):
        plan(instance, BLOCKS, TX)


def test_every_plan_fits_and_is_the_biggest_rung_that_does(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = 0
    for mebibytes in range(25, 400, 3):
        _free(monkeypatch, mebibytes)
        total = sum(o.segment_bytes for o in plan(instance, BLOCKS, TX).values())
        assert before <= total <= mebibytes << 20
        before = total


def test_small_rings_that_were_asked_for_are_left_alone(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, 2)
    small = RingOptions(16, 1 << 16)
    assert plan(instance, small, small) == {"blocks": small, "tx": small}


def test_memory_of_the_instances_own_old_rings_counts_as_free(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Writer.create(instance, "blocks", slot_count=64, arena_bytes=20 << 20):
        _free(monkeypatch, 5)
        planned = plan(instance, BLOCKS, TX)
        assert sum(o.segment_bytes for o in planned.values()) == 24 << 20


def test_rungs_are_valid_sizes_and_end_at_the_least() -> None:
    for name, asked in (("blocks", BLOCKS), ("tx", TX), ("tx", RingOptions(5, 5000))):
        ladder = list(rungs(name, asked))
        for rung in ladder:
            assert rung.slot_count & (rung.slot_count - 1) == 0
            assert rung.arena_bytes % layout.PAGE_BYTES == 0
        assert ladder[-1].segment_bytes <= max(SEGMENT_BYTES_MIN[name], ladder[0].segment_bytes)
        sizes = [rung.segment_bytes for rung in ladder]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("bad", [RingOptions(0, 1), RingOptions(1, 0), RingOptions(1 << 25, 1)])
def test_sizes_out_of_bounds_are_refused(bad: RingOptions) -> None:
    with pytest.raises(ValueError, match=r"slot_count|arena_bytes"):
        plan("x", bad, TX)
