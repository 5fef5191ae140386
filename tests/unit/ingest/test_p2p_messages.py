"""The codec against known bytes, against itself, and against every bound that it states."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from p2p_strategies import any_message, u64

from bitcoin_sprint.ingest import p2p_messages as messages
from bitcoin_sprint.ingest.p2p_fields import (
    FieldReader,
    MalformedMessage,
    NetworkAddress,
    TimedAddressV2,
    pack_compact_size,
)
from bitcoin_sprint.ingest.p2p_framing import MESSAGE_BYTES_MAX, MessageHeader, checksum
from bitcoin_sprint.ingest.p2p_messages import InvType

MAIN = bytes.fromhex("f9beb4d9")

# The version message of the protocol documentation (Satoshi 0.7.2, protocol 60002).
KNOWN_VERSION = bytes.fromhex(
    "62ea0000"
    "0100000000000000"
    "11b2d05000000000"
    "010000000000000000000000000000000000ffff000000000000"
    "010000000000000000000000000000000000ffff000000000000"
    "3b2eb35d8ce61765"
    "0f2f5361746f7368693a302e372e322f"
    "c03e0300"
)


def test_a_known_version_message_decodes_to_its_documented_fields() -> None:
    version = messages.Version.decode(KNOWN_VERSION)
    assert version.version == 60002
    assert version.services == messages.Services.NETWORK
    assert version.timestamp == 1355854353
    assert version.nonce == 0x6517E68C5DB32E3B
    assert version.user_agent == "/Satoshi:0.7.2/"
    assert version.start_height == 212672
    assert version.relay  # the field is absent, which means yes
    assert version.receiver.host == "0.0.0.0"


def test_a_known_verack_frame_is_made_byte_for_byte() -> None:
    known = bytes.fromhex("f9beb4d976657261636b000000000000000000005df6e0e2")
    assert messages.pack_message(MAIN, messages.Verack()) == known


def test_the_known_version_payload_has_its_documented_checksum() -> None:
    assert checksum(KNOWN_VERSION) == bytes.fromhex("3b648d5a")


def test_every_message_class_is_known_by_its_command() -> None:
    assert len(messages.DECODERS) == 22
    for command, kind in messages.DECODERS.items():
        assert kind.command == command
        assert len(command) <= 12


@given(any_message)
def test_any_message_survives_the_round_trip(message: messages.Message) -> None:
    frame = messages.pack_message(MAIN, message)
    header = MessageHeader.decode(frame)
    payload = frame[24:]
    assert header == (MAIN, message.command, len(payload), checksum(payload))
    assert messages.decode_message(header.command, memoryview(payload)) == message


@given(any_message)
def test_a_valid_message_is_never_longer_than_its_own_limit(message: messages.Message) -> None:
    assert len(message.encode()) <= messages.payload_bytes_max(message.command)


@given(any_message)
def test_bytes_behind_the_last_field_are_tolerated(message: messages.Message) -> None:
    if isinstance(message, messages.Block | messages.Transaction | messages.Reject):
        return  # these reach to the payload's end by definition
    assert type(message).decode(bytes(message.encode()) + b"later") == message


@given(st.sampled_from(sorted(messages.DECODERS)), st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed_and_nothing_else(command: str, data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        messages.decode_message(command, data)


@given(any_message, st.data())
def test_a_payload_cut_short_never_decodes_to_the_same_message(
    message: messages.Message, data: st.DataObject
) -> None:
    payload = bytes(message.encode())
    if isinstance(message, messages.Version):
        payload = payload[:-1]  # its last field is optional
    if not payload:
        return
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    with contextlib.suppress(MalformedMessage):
        assert type(message).decode(cut) != message


def test_an_unknown_command_decodes_to_nothing() -> None:
    assert messages.decode_message("merkleblock", b"anything") is None


@pytest.mark.parametrize(
    ("kind", "bound", "entry_bytes"),
    [
        (messages.Headers, messages.HEADERS_COUNT_MAX, 81),
        (messages.Inv, messages.INVENTORY_COUNT_MAX, 36),
        (messages.GetData, messages.INVENTORY_COUNT_MAX, 36),
        (messages.NotFound, messages.INVENTORY_COUNT_MAX, 36),
        (messages.Addr, messages.ADDRESS_COUNT_MAX, 30),
    ],
)
def test_a_list_is_accepted_at_its_bound_and_refused_above(
    kind: type[messages.Message], bound: int, entry_bytes: int
) -> None:
    full = pack_compact_size(bound) + bytes(bound * entry_bytes)
    assert messages.decode_message(kind.command, full) is not None
    assert len(full) <= kind.payload_bytes_max
    over = pack_compact_size(bound + 1) + bytes((bound + 1) * entry_bytes)
    with pytest.raises(MalformedMessage, match=f"{bound + 1} .*at most {bound}"):
        kind.decode(over)


def test_a_count_is_judged_before_anything_is_read_for_it() -> None:
    with pytest.raises(MalformedMessage, match="at most 50000"):
        messages.Inv.decode(b"\xff" + struct.pack("<Q", 2**63))


def test_a_locator_is_bounded_both_ways() -> None:
    locator = [bytes(32)] * messages.LOCATOR_COUNT_MAX
    assert messages.GetHeaders.decode(messages.GetHeaders(locator).encode()).locator == locator
    with pytest.raises(MalformedMessage, match="102 locator hashes, at most 101"):
        messages.GetHeaders([*locator, bytes(32)]).encode()
    with pytest.raises(MalformedMessage, match="102 locator hashes, at most 101"):
        messages.GetHeaders.decode(bytes(4) + b"\x66" + bytes(103 * 32))


def test_a_user_agent_is_bounded_both_ways() -> None:
    template = messages.Version.decode(KNOWN_VERSION)
    fields = {name: getattr(template, name) for name in template.__struct_fields__}
    fields["user_agent"] = "x" * 257
    with pytest.raises(MalformedMessage, match="257 user agent bytes, at most 256"):
        messages.Version(**fields).encode()
    head = KNOWN_VERSION[:80]
    with pytest.raises(MalformedMessage, match="257 user agent bytes, at most 256"):
        messages.Version.decode(head + b"\xfd\x01\x01" + bytes(300))


def test_an_address_of_version_two_is_bounded() -> None:
    entry = TimedAddressV2(0, 0, 9, bytes(513), 8333)
    with pytest.raises(MalformedMessage, match="513 address bytes, at most 512"):
        messages.AddrV2([entry]).encode()
    with pytest.raises(MalformedMessage, match="513 address bytes, at most 512"):
        messages.AddrV2.decode(b"\x01" + bytes(4) + b"\0" + b"\x09" + b"\xfd\x01\x02" + bytes(515))


@pytest.mark.parametrize("data", ["fd0000", "fdfc00", "feffff0000", "ffffffffff00000000"])
def test_a_count_that_is_not_in_its_shortest_form_is_malformed(data: str) -> None:
    with pytest.raises(MalformedMessage, match="shortest form"):
        FieldReader(bytes.fromhex(data)).compact_size()


@given(u64)
def test_a_compact_size_survives_the_round_trip(value: int) -> None:
    assert FieldReader(pack_compact_size(value)).compact_size() == value


@pytest.mark.parametrize(
    "command", [b"\0" * 12, b"ver\0ack\0\0\0\0\0", b"ver\x7fack\0\0\0\0\0", b"\xffersion\0\0\0\0\0"]
)
def test_a_command_that_is_not_padded_ascii_is_malformed(command: bytes) -> None:
    with pytest.raises(MalformedMessage, match="zero-padded printable ASCII"):
        MessageHeader.decode(MAIN + command + bytes(8))


@pytest.mark.parametrize("command", ["", "thirteenbytes"])
def test_a_command_that_does_not_fit_is_not_encoded(command: str) -> None:
    with pytest.raises(MalformedMessage, match="does not fit"):
        MessageHeader(MAIN, command, 0, bytes(4)).encode()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("node.example", "::"),
    ],
)
def test_a_network_address_keeps_its_host(host: str, shown: str) -> None:
    address = NetworkAddress.of(host, 8333, 9)
    assert (address.host, address.port, address.services) == (shown, 8333, 9)
    assert NetworkAddress.read(FieldReader(address.encode())) == address


def test_raw_bodies_pass_through_without_a_copy() -> None:
    raw = memoryview(bytes(100))
    block = messages.decode_message("block", raw)
    assert isinstance(block, messages.Block)
    assert block.raw is raw


def test_a_headers_message_tolerates_a_transaction_count() -> None:
    payload = b"\x01" + b"h" * 80 + b"\xfd\x00\x01"
    assert messages.Headers.decode(payload).headers == [b"h" * 80]


def test_the_payload_limit_of_a_block_is_the_networks() -> None:
    assert messages.payload_bytes_max("block", 1_000) == 1_000
    assert messages.payload_bytes_max("tx", 1_000) == 1_000
    assert messages.payload_bytes_max("unknown", 1_000) == MESSAGE_BYTES_MAX


def test_witness_types_are_the_plain_types_with_the_witness_bit() -> None:
    assert InvType.WITNESS_TX == InvType.TX | 1 << 30
    assert InvType.WITNESS_BLOCK == InvType.BLOCK | 1 << 30
