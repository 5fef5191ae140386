"""Replay of raw blocks from files: as fast as the intake takes them, or at the pace of their times.

Files are read in the order configured, the files of a folder by name (of a node's ``blocks``
folder the ``blk*.dat``), each block behind its parent (``replay_order``). A file that is no file of
blocks costs an error in the log and a count, and the next one follows; so does a damaged stretch
within one, and a record that its writer has not finished is told of. A block that stands nowhere in
our header chain is proved for itself alone (the intake's part). When all files are through, the
feed ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import ConfigError, HeaderRefused
from bitcoin_sprint.ingest.block_files import (
    BlockFileError,
    ForeignNetwork,
    block_files,
    blocks_in,
)
from bitcoin_sprint.ingest.block_records import Fault
from bitcoin_sprint.ingest.feed import Sink, Source, Stamps, Verdict
from bitcoin_sprint.ingest.replay_order import Place, ReplayOrder, Turn
from bitcoin_sprint.validate import check_header_alone

LOG_INTERVAL_S: Final = 10.0
LINES_MAX: Final = 5
"""Refused blocks and faults of one file, and files that are none, with a line of their own."""

_log = logging.getLogger(__name__)


class Pace:
    """When each block's turn is: ``speed`` times as fast as the blocks' own times say, 0: at once.

    Times of blocks may go back by two hours; here they stand still until they are caught up with.
    None is a header that is damaged, whose time could lie a century ahead: nothing waits for it.
    """

    def __init__(self, speed: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._clock = clock
        self._began = 0.0
        self._first: int | None = None
        self._latest = 0

    def delay_s(self, header_time: int | None) -> float:
        """Seconds until the turn of the next block, whose header has ``header_time``."""
        if not self._speed or header_time is None:
            return 0.0
        if self._first is None:
            self._first = self._latest = header_time
            self._began = self._clock()
        self._latest = max(self._latest, header_time)
        due = self._began + (self._latest - self._first) / self._speed
        return max(0.0, due - self._clock())


class Progress:
    """How far a replay is, in figures. ``files``: each file and its size in bytes."""

    def __init__(self, files: Mapping[Path, int], clock: Callable[[], float]) -> None:
        self._sizes = files
        self._clock = clock
        self._began: float | None = None
        self._seconds = 0.0
        self._bytes_before = 0
        self._file: Path | None = None
        self._offset = 0
        self.is_done = False
        self.counts: Counter[str] = Counter(
            dict.fromkeys(
                ("files", "files_failed", "damaged", "torn", "blocks", "txs", "waiting"), 0
            )
            | {verdict.value: 0 for verdict in Verdict}
        )

    def begin(self, file: Path) -> None:
        """``file`` is read from now on."""
        if self._began is None:
            self._began = self._clock()
        self._file, self._offset = file, 0

    def reach(self, offset: int) -> None:
        """The file is read up to ``offset``."""
        self._offset = offset

    def end(self) -> None:
        """The file is through."""
        assert self._file is not None
        self._bytes_before += self._sizes[self._file]
        self._file = None
        self.counts["files"] += 1

    def finish(self) -> None:
        """All files are through."""
        self._seconds = self.seconds
        self.is_done = True

    @property
    def file(self) -> Path | None:
        """The file that is being read."""
        return self._file

    @property
    def seconds(self) -> float:
        """Since the first file was begun."""
        if self.is_done or self._began is None:
            return self._seconds
        return self._clock() - self._began

    @property
    def figures(self) -> dict[str, int]:
        """All counts, and files, bytes, rate and time left, as whole numbers."""
        seconds = self.seconds
        now = min(self._offset, self._sizes[self._file]) if self._file else 0
        done, total = self._bytes_before + now, sum(self._sizes.values())
        rate = done / seconds if seconds else 0.0
        return {
            **self.counts,
            "files_total": len(self._sizes),
            "bytes": done,
            "bytes_total": total,
            "bytes_per_s": round(rate),
            "blocks_per_s": round(self.counts["blocks"] / seconds) if seconds else 0,
            "eta_s": round((total - done) / rate) if rate else 0,
            "elapsed_ms": round(1000 * seconds),
            "done": int(self.is_done),
        }


class ReplayFeed:
    """See the module. One asyncio thread, which gets its turn after each block."""

    def __init__(
        self,
        sink: Sink,
        source: Source,
        network: Network,
        paths: Sequence[Path | str],
        *,
        speed: float = 0.0,
        delay_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``speed`` as for ``Pace``; ``delay_s``: how long ``run`` waits first.

        Raises ConfigError for a path that is not there, and for a folder without files.
        """
        self._sink = sink
        self._source = source
        self._network = network
        self._sizes = {
            file: size for path in paths for file, size in _files(Path(path).expanduser()).items()
        }
        self._clock = clock
        self._speed = speed
        self._delay_s = delay_s
        self._state = "waiting"
        self._lines = 0
        self._begin()

    @property
    def files(self) -> list[Path]:
        """The files, in the order in which they are replayed."""
        return list(self._sizes)

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def source(self) -> Source:
        return self._source

    @property
    def can_fetch(self) -> bool:
        return False

    async def fetch_block(self, hash: bytes) -> bool:  # noqa: ARG002
        """Files are read in their order; nothing can be asked of them."""
        return False

    async def run(self) -> None:
        """Replay every file, then end. Run again, it begins anew."""
        self._begin()
        await asyncio.sleep(self._delay_s)
        self._state = "ready"
        for file in self._sizes:
            self._progress.begin(file)
            self._lines = 0
            try:
                for turn in self._turns(file):
                    await self._take(turn)
            except BlockFileError as error:
                self._note_failure(error)
            self._say_unsaid(file)
            self._progress.end()
        for turn in self._order.rest():
            await self._take(turn)
        self._progress.finish()
        self._state = "done"
        self._log_progress("%s is through: ")

    def snapshot(self) -> Mapping[str, Any]:
        """State, the file that is being read, and ``progress``: figures that become counters."""
        return {
            "state": self._state,
            "file": str(self._progress.file or ""),
            "progress": self._progress.figures,
        }

    def _begin(self) -> None:
        self._progress = Progress(self._sizes, self._clock)
        self._order = ReplayOrder(self._network, self._sink.knows_header)
        self._pace = Pace(self._speed, self._clock)
        self._logged = self._clock()
        self._said_foreign = False

    def _turns(self, file: Path) -> Iterator[Turn]:
        """The blocks whose turn it is while ``file`` is read."""
        for found in blocks_in(file, self._network):
            if isinstance(found, Fault):
                self._note(file, found)
                continue
            self._progress.reach(found.offset + len(found.raw))
            yield from self._order.take(found.raw, Place(file, found.offset, found.again))
            self._progress.counts["waiting"] = len(self._order)

    async def _take(self, turn: Turn) -> None:
        """Give a block to the intake when its time has come."""
        place = turn.place
        try:
            raw = place.again() if turn.raw is None else turn.raw
        except OSError as error:
            self._progress.counts["damaged"] += 1
            self._warn("%s: the block at byte %d can't be read again: %s", place, error.strerror)
            return
        header_time = self._time_of(raw) if self._speed else None
        while (delay_s := self._pace.delay_s(header_time)) > 0:
            await asyncio.sleep(min(delay_s, LOG_INTERVAL_S))
            self._log_now_and_then()
        now = time.time_ns()
        outcome = self._sink.on_block(self._source, raw, Stamps(0, now, now))
        counts = self._progress.counts
        counts["blocks"] += 1
        counts[outcome.verdict.value] += 1
        if outcome.verdict is Verdict.ACCEPTED:
            counts["txs"] += _transaction_count(raw)
        elif outcome.verdict is Verdict.REFUSED:
            counts[f"refused.{outcome.reason}"] += 1
            shown = outcome.hash[::-1].hex() or "no hash"
            self._warn(
                "%s: the block at byte %d is refused: %s", place, f"{outcome.reason} ({shown})"
            )
        self._log_now_and_then()
        await asyncio.sleep(0)

    def _time_of(self, raw: bytes | memoryview) -> int | None:
        """Return a block's time; None where no work vouches for its header."""
        try:
            check_header_alone(raw[:80], self._network)
        except HeaderRefused:
            return None
        return int.from_bytes(raw[68:72], "little")

    def _note_failure(self, error: BlockFileError) -> None:
        """Count a file that is none; of those of another network only the first has a line."""
        counts = self._progress.counts
        counts["files_failed"] += 1
        is_foreign = isinstance(error, ForeignNetwork)
        if counts["files_failed"] <= LINES_MAX and not (is_foreign and self._said_foreign):
            _log.error("%s: %s", self.name, error)
        self._said_foreign = self._said_foreign or is_foreign

    def _note(self, file: Path, fault: Fault) -> None:
        self._progress.counts[fault.kind] += 1
        if fault.kind == "torn":
            _log.info(
                "%s: %s ends within the block at byte %d: it is still being written, or its "
                "writer was killed",
                self.name,
                file,
                fault.offset,
            )
        else:
            place = Place(file, fault.offset, bytes)
            self._warn("%s: damaged at byte %d: %s", place, f"{fault.length} bytes passed over")

    def _warn(self, text: str, place: Place, detail: str | None) -> None:
        """Log what is wrong at a place, for the first few of a file."""
        self._lines += 1
        if self._lines <= LINES_MAX:
            _log.warning(f"{self.name}: {text}", place.file, place.offset, detail)

    def _say_unsaid(self, file: Path) -> None:
        if self._lines > LINES_MAX:
            more = self._lines - LINES_MAX
            _log.warning("%s: %s: %d more blocks refused or damaged", self.name, file, more)

    def _log_now_and_then(self) -> None:
        if self._clock() - self._logged >= LOG_INTERVAL_S:
            self._logged = self._clock()
            self._log_progress("%s: ")

    def _log_progress(self, opening: str) -> None:
        figures = self._progress.figures
        left = "" if self._progress.is_done else f", {figures['eta_s']} s left"
        _log.info(
            f"{opening}%d blocks of %d files in %.1f s, %.1f of %.1f MB, %.1f MB/s, %d refused, "
            "%d damaged, %d files failed%s",
            self.name,
            figures["blocks"],
            figures["files"],
            self._progress.seconds,
            figures["bytes"] / 1e6,
            figures["bytes_total"] / 1e6,
            figures["bytes_per_s"] / 1e6,
            figures[Verdict.REFUSED.value],
            figures["damaged"],
            figures["files_failed"],
            left,
        )


def _transaction_count(raw: bytes | memoryview) -> int:
    """Return how many transactions a proved block holds."""
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}.get(raw[80])
    return raw[80] if width is None else int.from_bytes(raw[81 : 81 + width], "little")


def _files(path: Path) -> dict[Path, int]:
    """The files that a path of the configuration stands for, with their sizes."""
    try:
        if not path.is_dir():
            return {path: path.stat().st_size}
        files = {file: file.stat().st_size for file in block_files(path)}
        blocks = path / "blocks"
        if not any(file.name.startswith("blk") for file in files) and blocks.is_dir():
            raise ConfigError(f"ingest.replay: {path} is a node's folder: name {blocks} instead")
    except OSError as error:
        raise ConfigError(f"ingest.replay: {path} can't be read: {error.strerror}") from None
    if not files:
        raise ConfigError(f"ingest.replay: the folder {path} holds no files")
    return files
