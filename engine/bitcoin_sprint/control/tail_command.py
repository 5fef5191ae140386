"""``sprint tail``: frames as they come, out of the rings or over the wire."""

from __future__ import annotations

import argparse
import datetime
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
)
from bitcoin_sprint.errors import Disconnected, NotRunningError
from bitcoin_sprint.frames import Flag, Kind, Level
from bitcoin_sprint.ring import Frame as RingFrame
from bitcoin_sprint.ring import Ring

_LOOK_S: Final = 0.5
"""How often a quiet ring is checked for its writer's being alive."""


def add(commands: Subparsers) -> None:
    """Declare ``sprint tail``."""
    parser = add_command(
        commands,
        "tail",
        "frames as they come, from the rings of this host or from a stream",
        "sprint tail --ring blocks --count 10 --json",
        run,
    )
    add_instance_option(parser)
    parser.add_argument("--ring", choices=("blocks", "tx"), default="blocks")
    parser.add_argument("--start", choices=("newest", "oldest"), default="newest")
    parser.add_argument("--connect", metavar="ADDRESS", help="tcp://host:port instead of a ring")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N frames")


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint tail``; NotRunningError when there is no ring, or its writer ended."""
    rows = _stream(arguments.connect) if arguments.connect else _ring(arguments)
    for number, row in enumerate(rows, 1):
        if arguments.json:
            print_json(row)
        else:
            print(_line(row), flush=True)
        if arguments.count is not None and number >= arguments.count:
            break
    return 0


def _ring(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    try:
        ring = Ring.attach(arguments.instance, arguments.ring)
    except NotRunningError as error:
        raise NotRunningError(f"instance {arguments.instance} does not run: {error}") from error
    with ring.reader(start=arguments.start, wait="block") as reader:
        while True:
            frame = reader.wait(_LOOK_S)
            if frame is not None:
                row = _row(frame)
                row["source"] = ring.source_name(frame.source)
                yield row | {"lost": reader.frames_lost}
            elif not ring.writer_alive():
                raise NotRunningError(f"the writer of {arguments.ring} has ended")


def _stream(address: str) -> Iterator[dict[str, Any]]:
    with Subscriber(address) as subscriber:
        try:
            subscriber.connect()
        except Disconnected as error:
            raise Disconnected(f"{address}: {error}") from error
        for frame in subscriber:
            row = _row(frame)
            row["latency_us"] = (time.time_ns() - frame.publish_ns) // 1000
            yield row


def _row(frame: RingFrame | StreamFrame) -> dict[str, Any]:
    return {
        "sequence": frame.sequence,
        "kind": Kind(frame.kind).name,
        "height": frame.height,
        "level": Level(frame.level).name.lower(),
        "flags": [flag.name.lower() for flag in Flag(frame.flags) if flag.name],
        "hash": frame.hash[::-1].hex(),
        "bytes": frame.length,
        "publish_ns": frame.publish_ns,
    }


def _line(row: dict[str, Any]) -> str:
    moment = datetime.datetime.fromtimestamp(row["publish_ns"] / 1e9, datetime.UTC)
    tail = " ".join(row["flags"])
    where = row.get("source", f"{row.get('latency_us', 0)} µs")
    return (
        f"{moment:%H:%M:%S.%f} {row['sequence']:>8} {row['kind']:8} {row['height']:>8} "
        f"{row['level']:10} {row['bytes']:>9,} {row['hash']} {where} {tail}"
    ).rstrip()
