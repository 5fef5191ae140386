"""The header chain: every accepted header of a network, most work first seen is best.

Headers live in flat memory in C (``native/header_tree.h``), the rules they must keep stand here,
and an append-only file (``header_file``) brings them back after a restart. One thread, one process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from bitcoin_sprint.chains import Checkpoint, Network
from bitcoin_sprint.errors import HeaderRefused, HostError
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate.difficulty import required_bits
from bitcoin_sprint.validate.header import HeaderFields, check_header_alone, parse_header
from bitcoin_sprint.validate.header_file import HeaderFile
from bitcoin_sprint.validate.target import work_of

FUTURE_SECONDS_MAX: Final = 2 * 60 * 60
"""How far ahead of now a header may be dated."""
CAPACITY_MAX: Final = 8_000_000
"""Headers kept in all, some 1.3 GB; no network has as many yet."""
SIDE_HEADERS_MAX: Final = 100_000
"""Headers off the best chain beyond which only such with nearly the tip's work are taken."""
SAVE_BATCH: Final = 2_000
"""Headers written under one checksum at the most: what a torn write can cost."""

_TIME_AND_BITS: Final = struct.Struct("<II")


class HeaderEntry(NamedTuple):
    """One header of the chain. Hashes in internal byte order."""

    hash: bytes
    height: int
    work: int
    """Of the whole chain up to and with it."""
    parent: bytes
    """The parent's hash."""
    header: bytes
    new: bool = False
    """From ``add``: it was not there before."""


class _Ancestry:
    """The chain that ends with one node, as ``difficulty`` wants to see it."""

    def __init__(self, tree: Any, index: int, checkpoint: Checkpoint | None) -> None:
        self._tree, self._index, self._checkpoint = tree, index, checkpoint
        self.height: int = lib.sp_headers_at(tree, index).height
        self.time, self.bits = self._time_and_bits(index)

    def _time_and_bits(self, index: int) -> tuple[int, int]:
        header = lib.sp_headers_at(self._tree, index).header
        time, bits = _TIME_AND_BITS.unpack(ffi.buffer(header)[68:76])
        return time, bits

    def _at(self, height: int) -> tuple[int, int]:
        index = lib.sp_headers_ancestor(self._tree, self._index, height)
        if index >= 0:
            return self._time_and_bits(index)
        if self._checkpoint is None:
            raise ValueError(f"height {height} is not on a chain of height {self.height}")
        # Below a checkpoint only the start of the period that it stands in is ever asked for.
        return self._checkpoint.period_start_time, self._checkpoint.period_start_bits

    def time_at(self, height: int) -> int:
        return self._at(height)[0]

    def bits_at(self, height: int) -> int:
        return self._at(height)[1]

    def last_real_bits(self, interval: int, limit_bits: int) -> int:
        index = lib.sp_headers_last_real(self._tree, self._index, interval, limit_bits)
        if index == 0 and self._checkpoint is not None:
            return self._checkpoint.real_bits
        return self._time_and_bits(index)[1]


class HeaderChain:
    """A tree of headers from the network's checkpoint, or its genesis block, on."""

    def __init__(
        self,
        network: Network,
        file: HeaderFile | None = None,
        *,
        capacity_max: int = CAPACITY_MAX,
        side_headers_max: int = SIDE_HEADERS_MAX,
    ) -> None:
        self.network = network
        self._file = file
        self._side_headers_max = side_headers_max
        self._pending = bytearray()
        self._checkpoint = network.checkpoint
        root = self._checkpoint
        times: tuple[int, ...] = ()
        header, height, work = network.genesis, 0, work_of(parse_header(network.genesis).bits)
        if root is not None:
            header, height, work, times = root.header, root.height, root.work, root.recent_times
        tree = lib.sp_headers_new(
            header, height, work.to_bytes(32, "little"), times, len(times), capacity_max
        )
        if tree == ffi.NULL:
            raise HostError("no memory for the header chain")
        self._tree = ffi.gc(tree, lib.sp_headers_free)
        self._root_height = height

    @classmethod
    def open(
        cls,
        network: Network,
        path: Path | None = None,
        *,
        capacity_max: int = CAPACITY_MAX,
        side_headers_max: int = SIDE_HEADERS_MAX,
    ) -> Self:
        """The chain kept in the file ``path``, which is made if there is none; None: memory only.

        A torn end of the file is cut off.
        Raises ConfigError where the file is another network's, HostError where it can't be used.
        """
        if path is None:
            return cls(network, capacity_max=capacity_max, side_headers_max=side_headers_max)
        root = network.checkpoint
        header, height = (network.genesis, 0) if root is None else (root.header, root.height)
        file = HeaderFile(path, network, network.block_hash(header), height)
        try:
            chain = cls(network, file, capacity_max=capacity_max, side_headers_max=side_headers_max)
            chain._load(file)
        except BaseException:
            file.close()
            raise
        return chain

    def _load(self, file: HeaderFile) -> None:
        with closing(file.read()) as batches:
            for headers in batches:
                count = len(headers) // 80
                loaded = lib.sp_headers_load(self._tree, headers, count)
                if loaded < count:
                    # Cut off there; what was of use is written again, the rest asked for again.
                    self._pending += headers[: 80 * loaded]
                    break

    def __len__(self) -> int:
        return int(lib.sp_headers_count(self._tree))

    def __contains__(self, block_hash: object) -> bool:
        return isinstance(block_hash, bytes) and lib.sp_headers_find(self._tree, block_hash) >= 0

    def _index(self, block_hash: bytes) -> int:
        index: int = lib.sp_headers_find(self._tree, block_hash)
        if index < 0:
            raise KeyError(block_hash[::-1].hex())
        return index

    def _entry(self, index: int, *, new: bool = False) -> HeaderEntry:
        node = lib.sp_headers_at(self._tree, index)
        header = bytes(ffi.buffer(node.header))
        return HeaderEntry(
            bytes(ffi.buffer(node.hash)),
            node.height,
            int.from_bytes(ffi.buffer(node.work), "little"),
            header[4:36],
            header,
            new,
        )

    def get(self, block_hash: bytes) -> HeaderEntry | None:
        """The header with this hash, None where it is not known."""
        index = lib.sp_headers_find(self._tree, block_hash)
        return self._entry(index) if index >= 0 else None

    @property
    def root(self) -> HeaderEntry:
        """Where the chain starts."""
        return self._entry(0)

    @property
    def best(self) -> HeaderEntry:
        """The header of most work that is not condemned; of equals the one seen first."""
        return self._entry(lib.sp_headers_best(self._tree))

    @property
    def tip_work(self) -> int:
        """Total work of the best header's chain."""
        return self.best.work

    def add(self, header: bytes, now: float) -> HeaderEntry:
        """Check one 80-byte header against every rule and keep it; ``save`` writes it to the file.

        ``now`` is Unix time in seconds. Returns its entry, with ``new`` False where it was known.
        Raises HeaderRefused: ``truncated``, ``high-hash``, ``prev-unknown`` (the parent may come
        yet), ``bad-prevblk`` (it stands on a condemned block), ``bad-diffbits``, ``time-too-old``,
        ``time-timewarp-attack``, ``time-too-new`` (may pass later), ``bad-version``,
        ``too-many-side-headers``, ``too-many-headers``.
        """
        header = bytes(header[:80])
        fields = parse_header(header)
        known = lib.sp_headers_find(self._tree, self.network.block_hash(header))
        if known >= 0:
            self._refuse_condemned(known)
            return self._entry(known)
        # Proof of work before the parent: a question about an unknown one must cost something.
        check_header_alone(header, self.network)
        parent = lib.sp_headers_find(self._tree, fields.previous_hash)
        if parent < 0:
            raise HeaderRefused("prev-unknown", fields.previous_hash[::-1].hex())
        self._refuse_condemned(parent)
        self._check_context(fields, parent, now)
        self._check_room(fields, parent)
        index = lib.sp_headers_append(self._tree, header)
        if index < 0:
            raise HeaderRefused("too-many-headers", f"{len(self)} are kept")
        if self._file is not None:
            self._pending += header
        return self._entry(index, new=True)

    def _refuse_condemned(self, index: int) -> None:
        node = lib.sp_headers_at(self._tree, index)
        if node.condemned:
            raise HeaderRefused("bad-prevblk", bytes(ffi.buffer(node.hash))[::-1].hex())

    def _check_context(self, fields: HeaderFields, parent: int, now: float) -> None:
        chain = _Ancestry(self._tree, parent, self._checkpoint)
        network, height = self.network, chain.height + 1
        required = required_bits(chain, network, fields.time)
        if fields.bits != required:
            raise HeaderRefused("bad-diffbits", f"0x{fields.bits:08x} instead of 0x{required:08x}")
        if fields.time <= lib.sp_headers_median_time(self._tree, parent):
            raise HeaderRefused("time-too-old", f"{fields.time} at height {height}")
        back = network.retarget.timewarp_seconds_max
        starts_period = height % network.retarget.interval == 0
        if back is not None and starts_period and fields.time < chain.time - back:
            raise HeaderRefused("time-timewarp-attack", f"{fields.time} at height {height}")
        if fields.time > now + FUTURE_SECONDS_MAX:
            raise HeaderRefused("time-too-new", f"{fields.time}, {fields.time - now:.0f} s ahead")
        needed = (network.bip34_height, network.bip66_height, network.bip65_height)
        if fields.version < 4:
            for version, since in zip((2, 3, 4), needed, strict=True):
                if fields.version < version and height >= since:
                    raise HeaderRefused("bad-version", f"{fields.version} at height {height}")

    def _check_room(self, fields: HeaderFields, parent: int) -> None:
        """Headers of little work cost their sender little: bound what they may fill."""
        best = self.best
        side = len(self) - (best.height - self._root_height + 1)
        if side < self._side_headers_max:
            return
        entry = self._entry(parent)
        work = entry.work + work_of(fields.bits)
        if work < best.work - 144 * work_of(parse_header(best.header).bits):
            raise HeaderRefused("too-many-side-headers", f"{side} are kept")

    def required_bits(self, parent_hash: bytes, time: int) -> int:
        """The target that a block on this parent, dated ``time``, must carry."""
        chain = _Ancestry(self._tree, self._index(parent_hash), self._checkpoint)
        return required_bits(chain, self.network, time)

    def median_time_past(self, block_hash: bytes) -> int:
        """Median time of a block and the ten before it; its child must be later."""
        return int(lib.sp_headers_median_time(self._tree, self._index(block_hash)))

    def work_below_tip(
        self, block_hash: bytes, blocks: int = 144, *, tip: bytes | None = None
    ) -> bool:
        """Whether this header's chain has less work than the tip's less ``blocks`` such blocks.

        That marks a fork that costs little to forge. ``tip`` is the best header by default. Raises
        KeyError for a hash that is not known.
        """
        best = self.best if tip is None else self._entry(self._index(tip))
        margin = blocks * work_of(parse_header(best.header).bits)
        return self._entry(self._index(block_hash)).work < best.work - margin

    def header(self, block_hash: bytes) -> bytes:
        """The 80 bytes of a known header. Raises KeyError for a hash that is not known."""
        return self._entry(self._index(block_hash)).header

    def ancestor(self, block_hash: bytes, height: int) -> HeaderEntry:
        """The block at ``height`` on the chain of ``block_hash``.

        Raises KeyError where either is not known (a chain begins at its root).
        """
        index = -1
        if height >= 0:
            index = lib.sp_headers_ancestor(self._tree, self._index(block_hash), height)
        if index < 0:
            raise KeyError(height)
        return self._entry(index)

    def fork(self, a: bytes, b: bytes) -> HeaderEntry:
        """The last block that the chains of both have in common."""
        return self._entry(lib.sp_headers_fork(self._tree, self._index(a), self._index(b)))

    def path(self, from_hash: bytes, to_hash: bytes) -> tuple[list[HeaderEntry], list[HeaderEntry]]:
        """How the tip goes from one block to another: (disconnect, connect), in order of doing.

        Disconnected are ``from_hash`` and down to the fork, connected from the fork up to
        ``to_hash``; the fork itself is in neither. Both are as long as the way is.
        """
        start, end = self._index(from_hash), self._index(to_hash)
        fork = lib.sp_headers_fork(self._tree, start, end)
        return self._down(start, fork), self._down(end, fork)[::-1]

    def _down(self, index: int, stop: int) -> list[HeaderEntry]:
        """Entries from a node down to, and without, its ancestor ``stop``."""
        entries = []
        while index != stop:
            entries.append(self._entry(index))
            index = lib.sp_headers_at(self._tree, index).parent
        return entries

    def locator(self, block_hash: bytes | None = None) -> list[bytes]:
        """Hashes back from a block (default: the best), ten close by, then ever farther apart, the
        root last: what a ``getheaders`` message asks with."""
        index = lib.sp_headers_best(self._tree) if block_hash is None else self._index(block_hash)
        hashes: list[bytes] = []
        height: int = lib.sp_headers_at(self._tree, index).height
        step = 1
        while height > self._root_height:
            index = lib.sp_headers_ancestor(self._tree, index, height)
            hashes.append(bytes(ffi.buffer(lib.sp_headers_at(self._tree, index).hash)))
            if len(hashes) >= 10:
                step *= 2
            height -= step
        return [*hashes, self.root.hash]

    def headers_after(
        self, locator: Iterable[bytes], stop: bytes = bytes(32), limit: int = 2_000
    ) -> list[bytes]:
        """Headers of the best chain after the first block of ``locator`` that is on it (after the
        root where none is), up to and with ``stop`` or ``limit`` of them."""
        best: int = lib.sp_headers_best(self._tree)
        start = self._root_height
        for block_hash in locator:
            index = lib.sp_headers_find(self._tree, block_hash)
            if index < 0:
                continue
            height = lib.sp_headers_at(self._tree, index).height
            if lib.sp_headers_ancestor(self._tree, best, height) == index:
                start = height
                break
        count = min(limit, lib.sp_headers_at(self._tree, best).height - start)
        if count <= 0:
            return []
        last = lib.sp_headers_ancestor(self._tree, best, start + count)
        flat = bytearray(80 * count)
        lib.sp_headers_copy(self._tree, last, count, ffi.from_buffer("uint8_t[]", flat))
        headers = [bytes(flat[at : at + 80]) for at in range(0, len(flat), 80)]
        known = self.get(stop)
        if known is not None and start < known.height <= start + count:
            on_chain = headers[known.height - start - 1] == known.header
            return headers[: known.height - start] if on_chain else headers
        return headers

    def condemn(self, block_hash: bytes) -> None:
        """Never call this block, or one that stands on it, the best: its body or its scripts are
        invalid. Its children are refused from now on. Not remembered across a restart."""
        lib.sp_headers_condemn(self._tree, self._index(block_hash))

    def absolve(self, block_hash: bytes) -> None:
        """Take condemnation back from a block, those it stands on and those that stand on it."""
        lib.sp_headers_absolve(self._tree, self._index(block_hash))

    def is_condemned(self, block_hash: bytes) -> bool:
        """Whether the block, or one it stands on, is condemned."""
        return bool(lib.sp_headers_at(self._tree, self._index(block_hash)).condemned)

    def save(self) -> None:
        """Write what is new to the file. Raises HostError where the disk refuses; nothing is lost
        in memory then and the next call tries again."""
        while self._file is not None and self._pending:
            batch = bytes(self._pending[: 80 * SAVE_BATCH])
            self._file.append(batch)
            del self._pending[: len(batch)]

    def close(self) -> None:
        """Save and close the file. The chain must not be used afterwards."""
        try:
            self.save()
        finally:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
