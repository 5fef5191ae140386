"""Codec of the Bitcoin P2P protocol, version 1: the payloads that we speak.

Every message class encodes and decodes itself, so that a client, our embedded node and the tests
share one home of the format. Nothing here does I/O or keeps state.

- A count or length is checked against its bound before anything is read or allocated for it.
- Compact sizes must be minimal, as Bitcoin Core requires; bytes behind a message's last field are
  tolerated, as Core does, so that a later version may append fields.
- Hashes are in internal byte order. Raw blocks, transactions and headers pass through unparsed.

Sources: Bitcoin Core ``src/protocol.h``, ``src/net_processing.cpp``; BIPs 14, 31, 35, 130, 133,
144, 152, 155, 339.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple, Self

import msgspec

from bitcoin_sprint.ingest.p2p_fields import (
    Buffer,
    FieldReader,
    NetworkAddress,
    TimedAddress,
    TimedAddressV2,
    pack_count,
)
from bitcoin_sprint.ingest.p2p_framing import (
    BLOCK_HEADER_BYTES,
    COMMAND_BYTES,
    MESSAGE_BYTES_MAX,
    pack_frame,
)

PROTOCOL_VERSION: Final = 70016
"""What we announce: the version that brought ``wtxidrelay`` (BIP339)."""

HEADERS_COUNT_MAX: Final = 2_000
INVENTORY_COUNT_MAX: Final = 50_000
LOCATOR_COUNT_MAX: Final = 101
ADDRESS_COUNT_MAX: Final = 1_000
USER_AGENT_BYTES_MAX: Final = 256

_U64 = struct.Struct("<Q")
_INVENTORY_ITEM = struct.Struct("<I32s")
_VERSION_HEAD = struct.Struct("<iQq")
_VERSION_TAIL = struct.Struct("<i")
_SEND_COMPACT = struct.Struct("<BQ")


class Services(enum.IntFlag):
    """Service bits of a ``version`` or an address."""

    NONE = 0
    NETWORK = 1
    BLOOM = 4
    WITNESS = 8
    COMPACT_FILTERS = 64
    NETWORK_LIMITED = 1024
    P2P_V2 = 2048


class InvType(enum.IntEnum):
    """What an inventory entry names. Unknown numbers occur and are no fault."""

    TX = 1
    BLOCK = 2
    FILTERED_BLOCK = 3
    COMPACT_BLOCK = 4
    WTX = 5
    WITNESS_TX = 0x40000001
    WITNESS_BLOCK = 0x40000002


class InvItem(NamedTuple):
    type: int
    hash: bytes


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class Message(msgspec.Struct, frozen=True):
    """A message's payload. ``payload_bytes_max`` is the most that a valid one can take."""

    command: ClassVar[str]
    payload_bytes_max: ClassVar[int]

    def encode(self) -> Buffer:
        raise NotImplementedError

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        raise NotImplementedError


class _Empty(Message, frozen=True):
    payload_bytes_max: ClassVar[int] = 1_024

    def encode(self) -> Buffer:
        return b""

    @classmethod
    def decode(cls, payload: Buffer) -> Self:  # noqa: ARG003 - bytes to spare are tolerated
        return cls()


class Verack(_Empty, frozen=True):
    command: ClassVar[str] = "verack"


class SendHeaders(_Empty, frozen=True):
    """BIP130: announce blocks to me by ``headers``."""

    command: ClassVar[str] = "sendheaders"


class WtxidRelay(_Empty, frozen=True):
    """BIP339, sent before ``verack``: announce transactions to me by witness txid."""

    command: ClassVar[str] = "wtxidrelay"


class SendAddrV2(_Empty, frozen=True):
    """BIP155, sent before ``verack``."""

    command: ClassVar[str] = "sendaddrv2"


class GetAddr(_Empty, frozen=True):
    command: ClassVar[str] = "getaddr"


class Mempool(_Empty, frozen=True):
    """BIP35: announce your whole mempool. Core answers it only to permitted peers."""

    command: ClassVar[str] = "mempool"


class Version(Message, frozen=True):
    """The first message each way. ``timestamp`` is Unix time in seconds."""

    command: ClassVar[str] = "version"
    payload_bytes_max: ClassVar[int] = 2_048

    version: int
    services: int
    timestamp: int
    receiver: NetworkAddress
    sender: NetworkAddress
    nonce: int
    user_agent: str
    start_height: int
    relay: bool = True

    def encode(self) -> Buffer:
        agent = self.user_agent.encode()
        return b"".join(
            (
                _VERSION_HEAD.pack(self.version, self.services, self.timestamp),
                self.receiver.encode(),
                self.sender.encode(),
                _U64.pack(self.nonce),
                pack_count(len(agent), USER_AGENT_BYTES_MAX, "user agent bytes"),
                agent,
                _VERSION_TAIL.pack(self.start_height),
                b"\1" if self.relay else b"\0",
            )
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        version, services, timestamp = reader.unpack(_VERSION_HEAD)
        receiver, sender = NetworkAddress.read(reader), NetworkAddress.read(reader)
        (nonce,) = reader.unpack(_U64)
        agent = bytes(reader.take(reader.count(USER_AGENT_BYTES_MAX, "user agent bytes")))
        (start_height,) = reader.unpack(_VERSION_TAIL)
        relay = reader.remaining == 0 or reader.take(1)[0] != 0  # BIP37 made the field optional
        return cls(
            version, services, timestamp, receiver, sender, nonce, _text(agent), start_height, relay
        )


class _Nonce(Message, frozen=True):
    payload_bytes_max: ClassVar[int] = 1_024

    nonce: int

    def encode(self) -> Buffer:
        return _U64.pack(self.nonce)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*FieldReader(payload).unpack(_U64))


class Ping(_Nonce, frozen=True):
    command: ClassVar[str] = "ping"


class Pong(_Nonce, frozen=True):
    command: ClassVar[str] = "pong"


class _Locator(Message, frozen=True):
    payload_bytes_max: ClassVar[int] = 4 + 3 + LOCATOR_COUNT_MAX * 32 + 32 + 64

    locator: Sequence[bytes]
    stop: bytes = bytes(32)
    version: int = PROTOCOL_VERSION

    def encode(self) -> Buffer:
        count = pack_count(len(self.locator), LOCATOR_COUNT_MAX, "locator hashes")
        return b"".join((struct.pack("<I", self.version), count, *self.locator, self.stop))

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        (version,) = struct.unpack("<I", reader.take(4))
        count = reader.count(LOCATOR_COUNT_MAX, "locator hashes")
        locator = [bytes(reader.take(32)) for _ in range(count)]
        return cls(locator, bytes(reader.take(32)), version)


class GetHeaders(_Locator, frozen=True):
    command: ClassVar[str] = "getheaders"


class GetBlocks(_Locator, frozen=True):
    command: ClassVar[str] = "getblocks"


class Headers(Message, frozen=True):
    """Block headers of 80 bytes each, parents first."""

    command: ClassVar[str] = "headers"
    payload_bytes_max: ClassVar[int] = 3 + HEADERS_COUNT_MAX * (BLOCK_HEADER_BYTES + 9)

    headers: Sequence[bytes]

    def encode(self) -> Buffer:
        count = pack_count(len(self.headers), HEADERS_COUNT_MAX, "headers")
        return count + b"".join(bytes(header) + b"\0" for header in self.headers)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        headers = []
        for _ in range(reader.count(HEADERS_COUNT_MAX, "headers")):
            headers.append(bytes(reader.take(BLOCK_HEADER_BYTES)))
            reader.compact_size()  # a transaction count that is always 0 and means nothing
        return cls(headers)


class _Inventory(Message, frozen=True):
    payload_bytes_max: ClassVar[int] = 3 + INVENTORY_COUNT_MAX * 36 + 64

    items: Sequence[InvItem]

    def encode(self) -> Buffer:
        count = pack_count(len(self.items), INVENTORY_COUNT_MAX, "inventory entries")
        return count + b"".join(_INVENTORY_ITEM.pack(*item) for item in self.items)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        count = reader.count(INVENTORY_COUNT_MAX, "inventory entries")
        entries = _INVENTORY_ITEM.iter_unpack(reader.take(count * _INVENTORY_ITEM.size))
        return cls([InvItem._make(entry) for entry in entries])


class Inv(_Inventory, frozen=True):
    command: ClassVar[str] = "inv"


class GetData(_Inventory, frozen=True):
    command: ClassVar[str] = "getdata"


class NotFound(_Inventory, frozen=True):
    command: ClassVar[str] = "notfound"


class _Raw(Message, frozen=True):
    payload_bytes_max: ClassVar[int] = MESSAGE_BYTES_MAX

    raw: Buffer

    def encode(self) -> Buffer:
        return self.raw

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        """Takes ``payload`` as it is, without a copy."""
        return cls(payload)


class Block(_Raw, frozen=True):
    command: ClassVar[str] = "block"


class Transaction(_Raw, frozen=True):
    command: ClassVar[str] = "tx"


class Addr(Message, frozen=True):
    command: ClassVar[str] = "addr"
    payload_bytes_max: ClassVar[int] = 3 + ADDRESS_COUNT_MAX * 30 + 64

    addresses: Sequence[TimedAddress]

    def encode(self) -> Buffer:
        count = pack_count(len(self.addresses), ADDRESS_COUNT_MAX, "addresses")
        return count + b"".join(address.encode() for address in self.addresses)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        count = reader.count(ADDRESS_COUNT_MAX, "addresses")
        return cls([TimedAddress.read(reader) for _ in range(count)])


class AddrV2(Message, frozen=True):
    """BIP155."""

    command: ClassVar[str] = "addrv2"
    payload_bytes_max: ClassVar[int] = 3 + ADDRESS_COUNT_MAX * (4 + 9 + 1 + 3 + 512 + 2)

    addresses: Sequence[TimedAddressV2]

    def encode(self) -> Buffer:
        count = pack_count(len(self.addresses), ADDRESS_COUNT_MAX, "addresses")
        return count + b"".join(address.encode() for address in self.addresses)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        count = reader.count(ADDRESS_COUNT_MAX, "addresses")
        return cls([TimedAddressV2.read(reader) for _ in range(count)])


class FeeFilter(Message, frozen=True):
    """BIP133; ``rate`` is in satoshi a 1,000 virtual bytes."""

    command: ClassVar[str] = "feefilter"
    payload_bytes_max: ClassVar[int] = 1_024

    rate: int

    def encode(self) -> Buffer:
        return _U64.pack(self.rate)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*FieldReader(payload).unpack(_U64))


class SendCmpct(Message, frozen=True):
    """BIP152: may announce by ``cmpctblock`` if ``high_bandwidth``."""

    command: ClassVar[str] = "sendcmpct"
    payload_bytes_max: ClassVar[int] = 1_024

    high_bandwidth: bool
    version: int

    def encode(self) -> Buffer:
        return _SEND_COMPACT.pack(self.high_bandwidth, self.version)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        announce, version = FieldReader(payload).unpack(_SEND_COMPACT)
        return cls(announce != 0, version)


class Reject(Message, frozen=True):
    """BIP61, gone from Core but still sent by others; read for the log alone."""

    command: ClassVar[str] = "reject"
    payload_bytes_max: ClassVar[int] = 1_024

    rejected: str
    code: int
    reason: str
    data: bytes = b""

    def encode(self) -> Buffer:
        rejected, reason = self.rejected.encode(), self.reason.encode()
        return b"".join(
            (
                pack_count(len(rejected), COMMAND_BYTES, "rejected command bytes"),
                rejected,
                bytes([self.code]),
                pack_count(len(reason), 111, "reject reason bytes"),
                reason,
                self.data,
            )
        )

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        reader = FieldReader(payload)
        rejected = bytes(reader.take(reader.count(COMMAND_BYTES, "rejected command bytes")))
        code = reader.take(1)[0]
        reason = bytes(reader.take(reader.count(111, "reject reason bytes")))
        data = bytes(reader.take(reader.remaining))
        return cls(_text(rejected), code, _text(reason), data)


DECODERS: Final[Mapping[str, type[Message]]] = {
    kind.command: kind
    for kind in (
        Version, Verack, SendHeaders, WtxidRelay, SendAddrV2, GetAddr, Mempool, Ping, Pong,
        GetHeaders, GetBlocks, Headers, Inv, GetData, NotFound, Block, Transaction, Addr, AddrV2,
        FeeFilter, SendCmpct, Reject,
    )
}  # fmt: skip


def decode_message(command: str, payload: Buffer) -> Message | None:
    """The message, or None for a command that we do not speak. Raises MalformedMessage."""
    kind = DECODERS.get(command)
    return None if kind is None else kind.decode(payload)


def payload_bytes_max(command: str, block_bytes_max: int = MESSAGE_BYTES_MAX) -> int:
    """The longest payload to accept for a command; an unknown one gets the protocol's own limit."""
    if command in ("block", "tx"):
        return block_bytes_max
    kind = DECODERS.get(command)
    return MESSAGE_BYTES_MAX if kind is None else kind.payload_bytes_max


def pack_message(magic: bytes, message: Message) -> bytes:
    """A message as it goes on the wire of the network with this magic."""
    return pack_frame(magic, message.command, message.encode())
