"""The wire's test vectors, ``tests/vectors/wire.json``: fields beside bytes, for any language.

``python tests/wire_vectors.py`` writes the file anew; a test holds the file and the code together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitcoin_sprint.frames import Chain, Flag, Kind, Level
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.transports import codec
from bitcoin_sprint.transports import handshake as hs

PATH = Path(__file__).parent / "vectors" / "wire.json"

_GENESIS_HASH = bytes.fromhex("6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000")
_NOW_NS = 1_763_643_600_123_456_789

_HEADERS: dict[str, dict[str, Any]] = {
    "block header, all times known": {
        "kind": Kind.HEADER,
        "chain": Chain.BITCOIN,
        "level": Level.POW,
        "height": 0,
        "session": 0x0123456789ABCDEF,
        "sequence": 42,
        "previous": 41,
        "publish_ns": _NOW_NS,
        "origin_ns": _NOW_NS - 2_500_000,
        "first_byte_ns": _NOW_NS - 61_000,
        "last_byte_ns": _NOW_NS - 3_000,
        "hash": _GENESIS_HASH,
        "length": 80,
    },
    "times not known, height not known": {
        "kind": Kind.TX,
        "chain": Chain.BITCOIN,
        "session": 1,
        "sequence": 1,
        "previous": 0,
        "publish_ns": _NOW_NS,
        "hash": bytes(range(32)),
        "length": 250,
    },
    "times out of range saturate; unanchored and late": {
        "kind": Kind.BLOCK,
        "chain": Chain.LITECOIN,
        "level": Level.MERKLE,
        "flags": Flag.UNANCHORED | Flag.LATE,
        "height": 840_000,
        "session": (1 << 64) - 1,
        "sequence": (1 << 63) + 5,
        "previous": 1 << 63,
        "publish_ns": _NOW_NS,
        "origin_ns": 1,
        "first_byte_ns": _NOW_NS + 10**13,
        "hash": b"\xff" * 32,
        "length": 4_000_000,
    },
    "heartbeat: no session, no number": {
        "kind": Kind.HEARTBEAT,
        "session": 0,
        "sequence": 0,
        "previous": 0,
        "publish_ns": _NOW_NS,
        "length": 48,
    },
}

_HANDSHAKE: dict[str, Any] = {
    "SUBSCRIBE to all": hs.Subscribe(),
    "SUBSCRIBE filtered, resuming": hs.Subscribe(
        blocks=hs.Start(hs.StartMode.SEQUENCE, 0x0123456789ABCDEF, 43),
        tx=hs.Start(hs.StartMode.NONE),
        kinds=frozenset({Kind.HEADER, Kind.TIP}),
        tier="turbo",
        name="desk-7 µ",
    ),
    "WELCOME": hs.Welcome(
        heartbeat_ms=1_000,
        blocks=hs.Range(session=9, start=43, previous=42, oldest=12, newest=99),
        tx=hs.Range(),
        tier="turbo",
        network="main",
        server="bitcoin-sprint",
        memory_instance="main",
        memory_directory="/dev/hugepages",
    ),
    "ERROR": hs.ErrorMessage(hs.Refusal.FULL, "as many subscribers as this worker takes"),
    "HEARTBEAT payload": hs.Heartbeat(
        (
            hs.Position(kinds=0b11110, session=9, last=99),
            hs.Position(kinds=1 << 16, session=10, last=0),
        )
    ),
}


def build() -> dict[str, Any]:
    """All vectors."""
    return {
        "version": codec.VERSION,
        "crc32c": [
            {"hex": data.hex(), "crc32c": crc32c(data)}
            for data in (b"", b"123456789", bytes(32), bytes(range(256)))
        ],
        "headers": [
            {
                "name": name,
                "fields": _plain(fields),
                "hex": codec.FrameHeader(**fields).pack().hex(),
            }
            for name, fields in _HEADERS.items()
        ],
        "handshake": [
            {"name": name, "fields": _plain(_fields_of(value)), "hex": value.pack().hex()}
            for name, value in _HANDSHAKE.items()
        ],
        "messages": _messages(),
        "streams": _streams(),
        "refused": _refused(),
    }


def _messages() -> list[dict[str, Any]]:
    end = codec.End(codec.EndStatus.OK, Flag.LATE, 0xE3069283)
    rows = [
        ("CHUNK of 3 bytes on stream 7", codec.Message.CHUNK, 7, b"abc"),
        ("END, late", codec.Message.END, 7, end.pack()),
    ]
    return [
        {
            "name": name,
            "type": int(kind),
            "stream": stream,
            "body": body.hex(),
            "hex": codec.pack_message(kind, body, stream).hex(),
        }
        for name, kind, stream, body in rows
    ]


def _streams() -> list[dict[str, Any]]:
    """Bytes as a server sends them, and what a client has to make of them."""
    small = _packed(1, Kind.HEADER, bytes(80))
    block = b"\xaa" * 10
    open_block = codec.pack_message(codec.Message.FRAME, _header(2, Kind.BLOCK, 10), 1)
    first = codec.pack_message(codec.Message.CHUNK, block[:4], 1)
    rest = codec.pack_message(codec.Message.CHUNK, block[4:], 1)
    end = codec.pack_end(codec.EndStatus.OK, crc32c(block), stream=1)
    abort = codec.pack_end(codec.EndStatus.OVERWRITTEN, 0, stream=1)
    header = _packed(3, Kind.HEADER, bytes(80))
    later = _packed(9, Kind.HEADER, bytes(80), previous=7)
    return [
        _stream("a header", small, [1], []),
        _stream(
            "a header passes between a block's chunks",
            small + open_block + first + header + rest + end,
            [1, 3, 2],
            [],
        ),
        _stream("an aborted block", small + open_block + first + abort, [1], [[2, 2]]),
        _stream(
            "frames of the subscription were lost before the second",
            small + later,
            [1, 9],
            [[2, 7]],
        ),
        _stream(
            "filtered: the previous one of the subscription was had",
            small + _packed(9, Kind.HEADER, bytes(80), previous=1),
            [1, 9],
            [],
        ),
    ]


def _stream(name: str, data: bytes, delivered: list[int], gaps: list[list[int]]) -> dict[str, Any]:
    return {"name": name, "hex": data.hex(), "delivered": delivered, "gaps": gaps}


def _refused() -> list[dict[str, str]]:
    good = bytearray(_header(1, Kind.HEADER, 80))
    bad_magic, bad_crc = bytearray(good), bytearray(good)
    bad_magic[0] ^= 1
    bad_crc[100] ^= 1
    wrong_crc = codec.pack_whole(bytes(good), bytes(80), 0)
    too_long = codec.PREFIX.pack(codec.Message.CHUNK, 0, 0, codec.CHUNK_BYTES_MAX + 1)
    frame = codec.Message.FRAME
    return [
        {"name": "wrong magic", "hex": codec.pack_message(frame, bytes(bad_magic)).hex()},
        {"name": "wrong header CRC32C", "hex": codec.pack_message(frame, bytes(bad_crc)).hex()},
        {"name": "wrong payload CRC32C", "hex": wrong_crc.hex()},
        {"name": "CHUNK longer than 65,536 bytes", "hex": too_long.hex()},
        {
            "name": "CHUNK on a stream that is not open",
            "hex": codec.pack_message(codec.Message.CHUNK, b"x", 3).hex(),
        },
        {"name": "a type that is not known", "hex": "ff00000000000000"},
    ]


def _header(sequence: int, kind: Kind, length: int, previous: int | None = None) -> bytes:
    return codec.FrameHeader(
        kind=kind,
        session=9,
        sequence=sequence,
        previous=sequence - 1 if previous is None else previous,
        publish_ns=_NOW_NS,
        length=length,
    ).pack()


def _packed(sequence: int, kind: Kind, payload: bytes, previous: int | None = None) -> bytes:
    header = _header(sequence, kind, len(payload), previous)
    return codec.pack_whole(header, payload, crc32c(payload))


def _fields_of(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, frozenset):
        return sorted(int(entry) for entry in value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "__struct_fields__"):
        return _plain(_fields_of(value))
    return int(value) if isinstance(value, int) else value


def text() -> str:
    """The file's text."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
