"""``sprint replay``: the whole engine on files of raw blocks alone, until they are through.

The blocks go the way of all blocks: proved by ingest, into the rings, out by every tier's relay.
Unless told otherwise the instance is private (a name, a folder and, where the usual ones are taken,
ports of its own), so that a replay disturbs no engine that runs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bitcoin_sprint.config import Config
from bitcoin_sprint.control import logs
from bitcoin_sprint.control.commands import Subparsers, add_command, print_json
from bitcoin_sprint.control.demo import free_ports
from bitcoin_sprint.control.options import add_config_options, loaded_config
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.control.supervisor import Supervisor

_POLL_S: Final = 0.2
_SOURCE: Final = "source.replay."
_REFUSED: Final = "refused."
_DEFAULTS: Final = "default.toml"
_OWN: Final = {
    "ingest.p2p": [],
    "ingest.zmq": [],
    "ingest.dns_seeds": False,
    "use_direct_p2p": False,
    "sim.enabled": False,
}


class Summary(msgspec.Struct, frozen=True):
    """What became of the files. ``blocks`` were read, ``txs`` are those of the accepted ones;
    ``refused`` counts by reason, ``damaged`` stretches of files, ``torn`` unfinished records."""

    done: bool = False
    files: int = 0
    files_failed: int = 0
    blocks: int = 0
    accepted: int = 0
    duplicate: int = 0
    txs: int = 0
    bytes: int = 0
    refused: dict[str, int] = {}
    damaged: int = 0
    torn: int = 0
    seconds: float = 0.0
    mb_per_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 where everything was read and proved; a record that is still being written is fine."""
        is_whole = self.done and not (self.files_failed or self.refused or self.damaged)
        return 0 if is_whole else 1

    def sentence(self) -> str:
        """Return the summary for the end."""
        faults = [
            *(f"{count} refused ({reason})" for reason, count in self.refused.items()),
            *([f"{self.damaged} damaged stretches"] if self.damaged else []),
            *([f"{self.torn} unfinished blocks"] if self.torn else []),
            *([f"{self.files_failed} files failed"] if self.files_failed else []),
            *([] if self.done else ["stopped before the end"]),
        ]
        return (
            f"{self.blocks:,} blocks with {self.txs:,} transactions out of {self.files:,} files "
            f"in {self.seconds:.1f} s, {self.mb_per_s:,.1f} MB/s: "
            + (", ".join(faults) or "all proved")
            + "."
        )


def add(commands: Subparsers) -> None:
    """Declare ``sprint replay``."""
    parser = add_command(
        commands,
        "replay",
        "run the engine on files of raw blocks alone, until they are through",
        "sprint replay ~/.bitcoin/blocks --speed 60x --json",
        run,
    )
    parser.add_argument(
        "path",
        nargs="+",
        metavar="PATH",
        help="a file of blocks, or a folder of them such as a node's blocks folder",
    )
    parser.add_argument(
        "--speed",
        metavar="SPEED",
        help="full (the default), or a factor of the blocks' own times: 1x, 60x",
    )
    parser.add_argument(
        "--delay",
        metavar="TIME",
        help="begin so long after the start, for subscribers to connect (default: 0s)",
    )
    add_config_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint replay``; 0 when every block was proved, 1 when one was not or it was stopped.

    With ``--json`` its last line of output is one JSON object.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bitcoin-sprint-replay-") as folder,
        contextlib.ExitStack() as claims,
    ):
        draw = sys.stderr.isatty()
        config = replay_config(arguments, folder, claims, is_quiet=draw)
        logs.configure(config.log, "replay")
        summary = uvloop.run(_run(config, draw=draw))
    if arguments.json:
        print_json(summary)
    else:
        print(summary.sentence())
    return summary.exit_code


def replay_config(
    arguments: argparse.Namespace, folder: str, claims: contextlib.ExitStack, *, is_quiet: bool
) -> Config:
    """Return the configuration: files for the only source, and what nobody chose made private.

    The ports are ours until ``claims`` is closed. ``is_quiet``: a bar is drawn instead of a log.
    """
    paths = [str(Path(path).expanduser().absolute()) for path in arguments.path]
    own: dict[str, object] = {**_OWN, "ingest.replay": paths}
    own |= {"ingest.replay_speed": arguments.speed} if arguments.speed else {}
    own |= {"ingest.replay_delay": arguments.delay} if arguments.delay else {}
    loaded = loaded_config(arguments, own)
    config, sources = loaded.config, loaded.sources
    private: dict[str, object] = {
        "instance": f"replay-{os.getpid()}",
        "data_dir": folder,
        **({"log.level": "warning"} if is_quiet else {}),
        **free_ports(
            {
                path: getattr(policy, field)
                for policy in config.running_tiers
                for field in ("stream_port", "zmq_port")
                if sources[path := f"relay.tiers.{policy.name}.{field}"] == _DEFAULTS
            },
            claims,
        ),
    }
    own |= {key: value for key, value in private.items() if sources[key] == _DEFAULTS}
    return loaded_config(arguments, own).config


async def _run(config: Config, *, draw: bool) -> Summary:
    """Run the engine until its files are through, or a signal; return what became of them."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(config)
    starting = asyncio.create_task(supervisor.start())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return Summary()
        await starting
        figures: dict[str, int] = {}
        with _bar(draw) as bar:
            task = bar.add_task("starting", total=None)
            while not (figures.get("done") or stopped.done()):
                await asyncio.wait({stopped}, timeout=_POLL_S)
                figures = read_figures(config.instance) or figures
                bar.update(task, **_drawn(figures))
        return summary_of(figures)
    finally:
        stopped.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop()


def read_figures(instance: str) -> dict[str, int]:
    """Return the replay's counters by their own names; nothing while there are none."""
    snapshot = read_snapshot(instance, "ingest")
    counters = snapshot["counters"] if snapshot else {}
    return {
        name.removeprefix(_SOURCE): value
        for name, value in counters.items()
        if name.startswith(_SOURCE)
    }


def summary_of(figures: Mapping[str, int]) -> Summary:
    """Return what the replay's counters say."""
    plain = ("files", "files_failed", "blocks", "accepted", "duplicate", "txs", "bytes",
             "damaged", "torn")  # fmt: skip
    seconds = figures.get("elapsed_ms", 0) / 1000
    return Summary(
        done=bool(figures.get("done")),
        seconds=seconds,
        mb_per_s=round(figures.get("bytes", 0) / seconds / 1e6, 1) if seconds else 0.0,
        refused={
            name.removeprefix(_REFUSED): count
            for name, count in figures.items()
            if name.startswith(_REFUSED)
        },
        **{name: figures.get(name, 0) for name in plain},
    )


def _bar(draw: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not draw,
        transient=True,
    )


def _drawn(figures: Mapping[str, int]) -> dict[str, Any]:
    if "blocks" not in figures:
        return {}
    return {
        "description": f"{figures['blocks']:,} blocks, file {figures['files']}"
        f" of {figures['files_total']}",
        "completed": figures["bytes"],
        "total": figures["bytes_total"],
    }
