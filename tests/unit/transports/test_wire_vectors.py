import json

import pytest
import wire_vectors
from oracle.crc32c import crc32c as slow_crc32c

from bitcoin_sprint.client.decoder import StreamDecoder
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.transports.codec import unpack_header

VECTORS = json.loads(wire_vectors.PATH.read_text(encoding="utf-8"))


def names(rows):
    return [row["name"] for row in rows]


def test_the_vectors_are_what_the_code_makes():
    assert wire_vectors.PATH.read_text(encoding="utf-8") == wire_vectors.text(), (
        "run: python tests/wire_vectors.py"
    )


@pytest.mark.parametrize("row", VECTORS["crc32c"], ids=lambda row: row["hex"][:18] or "empty")
def test_the_checksums_are_crc32c_by_its_plain_definition(row):
    assert slow_crc32c(bytes.fromhex(row["hex"])) == row["crc32c"]


@pytest.mark.parametrize("row", VECTORS["headers"], ids=names(VECTORS["headers"]))
def test_a_header_of_the_vectors_is_read_back(row):
    data = bytes.fromhex(row["hex"])
    header = unpack_header(data)
    assert header.pack() == data
    exact = {"kind", "chain", "level", "flags", "height", "session", "sequence", "previous"}
    for name in exact & set(row["fields"]):
        assert getattr(header, name) == row["fields"][name]


@pytest.mark.parametrize("row", VECTORS["streams"], ids=names(VECTORS["streams"]))
def test_a_stream_of_the_vectors_gives_the_frames_and_holes_it_says(row):
    gaps = []
    decoder = StreamDecoder(Numbering(lambda _ring, *gap: gaps.append(list(gap)), None))
    decoder.feed(bytes.fromhex(row["hex"]))
    assert [frame.sequence for frame in decoder.events] == row["delivered"]
    assert gaps == row["gaps"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=names(VECTORS["refused"]))
def test_what_the_vectors_call_refused_is_refused(row):
    decoder = StreamDecoder(Numbering(None, None))
    with pytest.raises(ProtocolError):
        decoder.feed(bytes.fromhex(row["hex"]))
