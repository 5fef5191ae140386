"""Blocks behind the network's magic and their length, as in Bitcoin Core's ``blk*.dat``.

Zeros between and behind records are space that is not used yet. A record whose length can't be,
or that ends neither at the next one nor at space nor at the file's end while another begins within
it, is damaged: reading goes on at the next record. One that the file's end, or space up to there,
cuts off is torn: its file is still being written, or was when its writer died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, NamedTuple, TypeAlias

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest.block_windows import Window, find, is_space, past_space

BLOCK_BYTES_MIN: Final = 81
HEAD_BYTES: Final = 8
"""Magic and length."""
LOOKAHEAD_BYTES: Final = 64
"""Zeros behind a record that are taken for space without asking whether it is whole."""
TORN_ZEROS: Final = 64
"""Zeros at the end of a record by which it is torn. A block without payments ends in 36."""


class StoredBlock(NamedTuple):
    """A block and the byte that it begins at (in hex: its number). ``raw`` is valid until the next
    one is asked for; ``again`` reads it once more, whenever, and raises OSError where it can't."""

    raw: memoryview
    offset: int
    again: Callable[[], bytes]


class Fault(NamedTuple):
    """A stretch of a file that holds no whole block."""

    kind: Literal["damaged", "torn"]
    offset: int
    length: int


Found: TypeAlias = StoredBlock | Fault


def room_bytes(network: Network) -> int:
    """The longest view that records of the network's blocks need."""
    return HEAD_BYTES + network.block_bytes_max + LOOKAHEAD_BYTES


def next_record(window: Window, network: Network, offset: int, end: int | None = None) -> int:
    """Return where the next magic with a possible length stands, from ``offset`` on; ``end``
    (None: the file's) where none does before it."""
    while True:
        offset = find(window, network.magic, offset, end)
        room = HEAD_BYTES if end is None else min(HEAD_BYTES, end - offset)
        head = bytes(window.view(offset, room))
        if _is_length(head, network) or len(head) < len(network.magic):
            return offset + len(head) if len(head) < HEAD_BYTES else offset
        offset += 1


def records(window: Window, network: Network) -> Iterator[Found]:
    """The blocks of a file in its order, and what lies between them that is none."""
    offset = 0
    while True:
        offset = past_space(window, offset, network.magic)
        head = bytes(window.view(offset, HEAD_BYTES))
        if not head:
            return
        found = _record(window, network, offset, head)
        yield found
        offset += found.length if isinstance(found, Fault) else HEAD_BYTES + _length(head)


def _record(window: Window, network: Network, start: int, head: bytes) -> Found:
    """What stands at ``start``, which is no space."""
    if head[:4] == network.magic[: len(head)] and _is_cut_off(window, head, start):
        return Fault("torn", start, len(head))
    if head[:4] != network.magic or not _is_length(head, network):
        return Fault("damaged", start, next_record(window, network, start + 1) - start)
    size = HEAD_BYTES + _length(head)
    view = window.view(start, size + LOOKAHEAD_BYTES)
    after = view[size:]
    if is_space(window, after, start + size):
        tail = start + max(HEAD_BYTES, size - TORN_ZEROS)
        if len(view) < size or is_space(window, view[tail - start : size], tail):
            return _cut_off(window, network, start, len(view) - len(after))
    elif bytes(after[:4]) != network.magic[: len(after)]:
        inner = next_record(window, network, start + HEAD_BYTES, start + size)
        if inner < start + size:
            return Fault("damaged", start, inner - start)
    offset = start + HEAD_BYTES
    return StoredBlock(view[HEAD_BYTES:size], offset, partial(window.copy, offset, _length(head)))


def _cut_off(window: Window, network: Network, start: int, length: int) -> Fault:
    """The fault of a record that ends early: damaged, where another one begins within it."""
    inner = next_record(window, network, start + HEAD_BYTES, start + length)
    return Fault("torn" if inner == start + length else "damaged", start, inner - start)


def _is_cut_off(window: Window, head: bytes, start: int) -> bool:
    """Return whether the file, or what is written of it, ends within a record's head."""
    rest = memoryview(head)[4:]
    return len(head) < HEAD_BYTES or is_space(window, rest, start + 4)


def _length(head: bytes) -> int:
    return int.from_bytes(head[4:8], "little")


def _is_length(head: bytes, network: Network) -> bool:
    return len(head) == HEAD_BYTES and BLOCK_BYTES_MIN <= _length(head) <= network.block_bytes_max
