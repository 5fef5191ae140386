"""``sprint tail``: frames as they come, out of the rings or over the wire."""

from __future__ import annotations

import argparse
import datetime
import math
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from bitcoin_sprint.client import Frame as StreamFrame
from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.control.commands import (
    Subparsers,
    add_command,
    add_instance_option,
    print_json,
    real_number,
)
from bitcoin_sprint.errors import Closed, ConfigError, FeedTimeout, NotRunningError
from bitcoin_sprint.frames import Flag, Kind, Level
from bitcoin_sprint.ring import Frame as RingFrame
from bitcoin_sprint.ring import Ring

_LOOK_S: Final = 0.25
"""How often a quiet source is asked whether it lives."""
_CONNECT_S: Final = 3.0
_COUNT_DIGITS_MAX: Final = 18
_FULL_COLUMNS: Final = 150
_SHORT_COLUMNS: Final = 60

_Row = dict[str, Any]


def add(commands: Subparsers) -> None:
    """Declare ``sprint tail``."""
    parser = add_command(
        commands,
        "tail",
        "frames as they come, from the rings of this host or from a stream",
        "sprint tail --connect tcp://127.0.0.1:7403 --count 10 --json",
        run,
    )
    add_instance_option(parser)
    parser.add_argument("--ring", choices=("blocks", "tx"), default="blocks")
    parser.add_argument("--start", choices=("newest", "oldest"), default="newest")
    parser.add_argument(
        "--connect",
        metavar="ADDRESS",
        help="tcp://host:port, unix:///path or zmq+tcp://host:port instead of a ring",
    )
    parser.add_argument(
        "--server-key", default="", metavar="KEY", help="public key of a ZeroMQ server with CURVE"
    )
    parser.add_argument("--count", type=_count, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="give up (exit code 1) when no frame came for so long; default: wait on",
    )


def _count(text: str) -> int:
    """Return a number of frames, for argparse."""
    if not text.isdecimal() or len(text) > _COUNT_DIGITS_MAX or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:64]!r}: must be a whole number, 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    """Return a time to wait, for argparse."""
    seconds = real_number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be more than 0")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint tail``; NotRunningError when there is no ring, or its engine ended;
    FeedTimeout when nothing came within ``--timeout``."""
    rows = _stream(arguments) if arguments.connect else _ring(arguments)
    lost = 0
    for count, row in enumerate(_patiently(rows, arguments), 1):
        if arguments.json:
            print_json(row)
        else:
            if row["lost"] > lost:
                print(f"-- lost: {row['lost'] - lost:,}", flush=True)
            print(_line(row, _columns()), flush=True)
        lost = row["lost"]
        if count == arguments.count:
            break
    return 0


def _patiently(rows: Iterator[_Row | None], arguments: argparse.Namespace) -> Iterator[_Row]:
    """Pass on the rows; None, a look at which there was none, may come for as long as allowed."""
    heard = time.monotonic()
    for row in rows:
        now = time.monotonic()
        if row is not None:
            yield row
            heard = time.monotonic()
        elif arguments.timeout is not None and now - heard >= arguments.timeout:
            where = arguments.connect or f"ring {arguments.ring} of instance {arguments.instance}"
            raise FeedTimeout(f"{where}: no frame within {arguments.timeout:g} s")


class _Episodes:
    """Tells of trouble on standard error: once when it begins, once when it ends."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._trouble = ""

    def note(self, trouble: str) -> None:
        """``trouble`` as it is now, "" for none."""
        if trouble and not self._trouble:
            print(f"sprint: {self._where}: {trouble}; trying on", file=sys.stderr, flush=True)
        if self._trouble and not trouble:
            print(f"sprint: {self._where}: well again", file=sys.stderr, flush=True)
        self._trouble = trouble


def _ring(arguments: argparse.Namespace) -> Iterator[_Row | None]:
    instance, name = arguments.instance, arguments.ring
    try:
        ring = Ring.attach(instance, name)
    except NotRunningError as error:
        raise NotRunningError(f"instance {instance} does not run: {error}") from None
    episodes = _Episodes(f"ring {name} of instance {instance}")
    try:
        with ring.reader(start=arguments.start, wait="block") as reader:
            while True:
                frame = reader.wait(_LOOK_S)
                if frame is None:
                    episodes.note("" if ring.writer_alive() else "its writer is gone")
                    yield None
                    continue
                episodes.note("")
                row = _row(frame)
                row["source"] = ring.source_name(frame.source)
                yield row | {"lost": reader.frames_lost}
    except Closed:
        raise NotRunningError(f"instance {instance} has ended") from None
    finally:
        ring.close()


def _stream(arguments: argparse.Namespace) -> Iterator[_Row | None]:
    address = arguments.connect
    episodes = _Episodes(address)
    lost = 0

    def on_gap(_ring: str, first: int, last: int) -> None:
        nonlocal lost
        lost += last - first + 1

    if arguments.start != "newest" and address.startswith("zmq"):
        raise ConfigError(f"--start {arguments.start}: ZeroMQ has only what comes from now on")
    with Subscriber(
        address,
        start=arguments.start,
        name="sprint tail",
        on_gap=on_gap,
        connect_timeout=_CONNECT_S,
        curve_server_key=arguments.server_key,
    ) as subscriber:
        while True:
            frame = subscriber.receive(_LOOK_S)
            episodes.note(subscriber.trouble)
            if frame is None:
                yield None
                continue
            row = _row(frame)
            row["latency_us"] = (time.time_ns() - frame.publish_ns) // 1000
            yield row | {"lost": lost}


def _row(frame: RingFrame | StreamFrame) -> _Row:
    return {
        "sequence": frame.sequence,
        "kind": _word(Kind, frame.kind).upper(),
        "height": frame.height,
        "level": _word(Level, frame.level),
        "flags": [flag.name.lower() for flag in Flag(frame.flags) if flag.name],
        "hash": frame.hash[::-1].hex(),
        "bytes": frame.length,
        "publish_ns": frame.publish_ns,
    }


def _word(names: type[Kind] | type[Level], number: int) -> str:
    """Return a number's name; of one that a later version brought the number."""
    try:
        return names(number).name.lower()
    except ValueError:
        return str(number)


def _columns() -> int:
    """How wide a line may be: the terminal's width, anything where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _FULL_COLUMNS


def _line(row: _Row, columns: int) -> str:
    moment = datetime.datetime.fromtimestamp(row["publish_ns"] / 1e9, datetime.UTC)
    what = f"{row['kind']:8} {row['height']:>8}"
    if columns < _SHORT_COLUMNS:
        return f"{moment:%H:%M:%S} {what} {row['hash'][: columns - 28]}"[:columns]
    if columns < _FULL_COLUMNS:
        head = f"{moment:%H:%M:%S.%f} {row['sequence']:>8} {what} "
        return f"{head}{row['hash'][: columns - len(head)]}"
    tail = " ".join(row["flags"])
    where = row.get("source", f"{row.get('latency_us', 0)} µs")
    return (
        f"{moment:%H:%M:%S.%f} {row['sequence']:>8} {what} "
        f"{row['level']:10} {row['bytes']:>9,} {row['hash']} {where} {tail}"
    ).rstrip()
