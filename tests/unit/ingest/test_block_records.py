"""Records of block files: what is damaged costs itself alone, and what is unfinished is told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from regtest_blocks import REGTEST, bulky_transaction, chain_of, next_block

from bitcoin_sprint.ingest.block_records import Fault, StoredBlock, records, room_bytes
from bitcoin_sprint.ingest.block_windows import NO_KEY, READ_BYTES, FileWindow, MemoryWindow

BLOCKS = [block.raw for block in chain_of(4)]
BULK = bulky_transaction(1_500_000)
LARGE = next_block(transactions=[BULK]).raw.replace(bytes(64), random.Random(1).randbytes(64))
KEY = bytes.fromhex("0100a1c32b77fe09")


def record(raw: bytes, *, length: int | None = None) -> bytes:
    return REGTEST.magic + (len(raw) if length is None else length).to_bytes(4, "little") + raw


def framed(*raws: bytes) -> bytes:
    return b"".join(record(raw) for raw in raws)


def obscured(content: bytes) -> bytes:
    return bytes(byte ^ KEY[offset % 8] for offset, byte in enumerate(content))


def read(content: bytes) -> list[bytes | tuple[str, int, int]]:
    return [
        tuple(found) if isinstance(found, Fault) else bytes(found.raw)
        for found in records(MemoryWindow(content), REGTEST)
    ]


FIRST = framed(BLOCKS[0])
REST = framed(*BLOCKS[1:])
AT = len(FIRST)


@pytest.mark.parametrize(
    ("stretch", "length"),
    [
        (b"noise", 5),
        (b"noise" * 30_000, 150_000),
        (record(b"short"), 13),
        (record(b"x" * 300, length=4_000_001), 308),
        (record(BLOCKS[0], length=0xFFFFFFFF), 8 + len(BLOCKS[0])),
        (REGTEST.magic, 4),
        (REGTEST.magic * 3, 12),
        # Its length leads into the next record, or over the end of the file.
        (record(b"x" * 300, length=400), 308),
        (record(b"x" * 300, length=3_000_000), 308),
        (b"\0" * 40 + b"noise", 5),
    ],
    ids=str,
)
def test_a_damaged_stretch_costs_itself_alone(stretch: bytes, length: int) -> None:
    at = AT + len(stretch) - length
    assert read(FIRST + stretch + REST) == [BLOCKS[0], ("damaged", at, length), *BLOCKS[1:]]


def test_noise_behind_the_last_record_is_damage_too() -> None:
    assert read(FIRST + b"noise") == [BLOCKS[0], ("damaged", AT, 5)]


def test_a_file_that_begins_with_damage_is_read_from_its_first_record_on() -> None:
    assert read(FIRST[2:] + REST) == [("damaged", 0, AT - 2), *BLOCKS[1:]]


@pytest.mark.parametrize("written", [1, 4, 6, 8, 50, len(REST) - 1])
@pytest.mark.parametrize("space", [0, 200_000])
def test_a_record_that_is_not_finished_is_torn_whether_space_follows_or_not(
    written: int, space: int
) -> None:
    last = record(LARGE)
    found = read(FIRST + last[:written] + bytes(space and max(space, len(last))))
    if written == 1 and space:  # no magic yet: nothing tells it from damage
        assert found[1][0] == "damaged"
        return
    assert found[0] == BLOCKS[0]
    assert [each[:2] for each in found[1:]] == [("torn", AT)]


def test_the_magic_within_a_whole_block_begins_no_record() -> None:
    inside = next_block(transactions=[bulky_transaction(400)]).raw
    inside = inside.replace(bytes(200), record(bytes(192)), 1)
    assert REGTEST.magic in inside
    assert read(framed(inside) + FIRST) == [inside, BLOCKS[0]]


@pytest.mark.parametrize("key", [NO_KEY, KEY])
def test_a_file_is_read_through_its_window_as_if_it_were_in_memory(
    tmp_path: Path, key: bytes
) -> None:
    rng = random.Random(7)
    content = b""
    while len(content) < 6 * READ_BYTES:
        content += framed(rng.choice([LARGE, *BLOCKS])) + bytes(rng.choice([0, 0, 3, 90_000]))
        content += rng.choice([b"", b"", b"noise", record(BLOCKS[0])[: rng.randrange(9, 90)]])
    path = tmp_path / "blk00000.dat"
    path.write_bytes(content if key == NO_KEY else obscured(content))
    window = FileWindow(path, key, room_bytes(REGTEST))
    found = []
    for each in records(window, REGTEST):
        if isinstance(each, StoredBlock):
            assert each.again() == bytes(each.raw)
            found.append(bytes(each.raw))
        else:
            found.append(tuple(each))
    window.close()
    # Zeros under a key are no space: what separates records here is none then.
    expected = [each for each in read(content) if isinstance(each, bytes)]
    assert [each for each in found if isinstance(each, bytes)] == expected
    assert len(expected) > 8


def test_what_a_file_gains_while_it_is_read_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "blk00000.dat"
    path.write_bytes(FIRST)
    window = FileWindow(path, NO_KEY, room_bytes(REGTEST))
    found = records(window, REGTEST)
    assert bytes(next(found).raw) == BLOCKS[0]
    with path.open("ab") as file:
        file.write(REST)
    assert [bytes(each.raw) for each in found] == BLOCKS[1:]
    window.close()
