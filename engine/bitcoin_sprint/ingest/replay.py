"""Replay of raw blocks from files, as fast as the intake takes them.

Files are read in the order configured, the files of a folder by name. A file that is no file of
blocks, or breaks off, costs an error in the log and a count, and the next one follows. A block that
stands nowhere in our header chain is proved for itself alone (the intake's part). When all files
are through, the feed ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.block_files import BlockFileError, blocks_in, load
from bitcoin_sprint.ingest.feed import Sink, Source, Stamps, Verdict

_log = logging.getLogger(__name__)


class ReplayFeed:
    """See the module. One asyncio thread, which gets its turn after each block."""

    def __init__(
        self, sink: Sink, source: Source, network: Network, paths: Sequence[Path | str]
    ) -> None:
        """Raises ConfigError for a path that is not there, and for a folder without files."""
        self._sink = sink
        self._source = source
        self._network = network
        self.files = [file for path in paths for file in _files(Path(path).expanduser())]
        self._bytes_total = sum(file.stat().st_size for file in self.files)
        self._state = "waiting"
        self._file = ""
        self._counts = dict.fromkeys(
            ("files", "files_failed", "bytes", "blocks", *(verdict.value for verdict in Verdict)), 0
        )

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
        """Replay every file, then end."""
        self._state = "ready"
        started = time.monotonic()
        for file in self.files:
            self._file = str(file)
            try:
                await self._replay(file)
            except BlockFileError as error:
                self._counts["files_failed"] += 1
                _log.error("%s: %s", self.name, error)
            self._counts["files"] += 1
            self._counts["bytes"] += file.stat().st_size
        self._file = ""
        self._state = "done"
        _log.info(
            "%s: %d blocks of %d files in %.1f s, %d refused, %d files failed",
            self.name,
            self._counts["blocks"],
            len(self.files),
            time.monotonic() - started,
            self._counts[Verdict.REFUSED.value],
            self._counts["files_failed"],
        )

    def snapshot(self) -> Mapping[str, Any]:
        """State and progress: files and bytes done of how many, blocks by verdict."""
        return {
            "state": self._state,
            "file": self._file,
            "files_total": len(self.files),
            "bytes_total": self._bytes_total,
            "counts": dict(self._counts),
        }

    async def _replay(self, file: Path) -> None:
        data = load(file)
        for number, raw in enumerate(blocks_in(data, self._network, file)):
            now = time.time_ns()
            outcome = self._sink.on_block(self._source, raw, Stamps(0, now, now))
            self._counts["blocks"] += 1
            self._counts[outcome.verdict.value] += 1
            if outcome.verdict is Verdict.REFUSED:
                _log.warning(
                    "%s: block %d of %s (%s) refused: %s",
                    self.name,
                    number,
                    file,
                    outcome.hash[::-1].hex() or "no hash",
                    outcome.reason,
                )
            await asyncio.sleep(0)


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        files = sorted(each for each in path.iterdir() if each.is_file())
    except OSError as error:
        raise ConfigError(f"ingest.replay: {path} can't be read: {error.strerror}") from None
    if not files:
        raise ConfigError(f"ingest.replay: the folder {path} holds no files")
    return files
