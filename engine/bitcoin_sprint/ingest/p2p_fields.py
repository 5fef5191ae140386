"""Fields that several P2P messages share: compact sizes, bounded reading, network addresses."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, Final, Self, TypeAlias

import msgspec

from bitcoin_sprint.errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

COUNT_MAX: Final = 0x02000000
"""No count or length in the protocol is larger (Core's ``MAX_SIZE``)."""

ADDRESS_V2_BYTES_MAX: Final = 512

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_PORT = struct.Struct(">H")
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"


class MalformedMessage(ProtocolError):
    """A payload contradicts the format of its command."""


def pack_compact_size(value: int) -> bytes:
    """The shortest form of a count."""
    if value < 0xFD:
        return bytes((value,))
    if value <= 0xFFFF:
        return b"\xfd" + _U16.pack(value)
    if value <= 0xFFFFFFFF:
        return b"\xfe" + _U32.pack(value)
    return b"\xff" + _U64.pack(value)


def pack_count(count: int, maximum: int, what: str) -> bytes:
    """As ``pack_compact_size``; raises MalformedMessage above the field's bound."""
    if count > maximum:
        raise MalformedMessage(f"{count} {what}, at most {maximum}")
    return pack_compact_size(count)


class FieldReader:
    """Reads fields off the front of a payload, never past its end and never with a copy.

    Views that ``take`` returns live as long as the payload's buffer does.
    """

    __slots__ = ("_position", "_view")

    def __init__(self, payload: Buffer) -> None:
        self._view = memoryview(payload)
        self._position = 0

    @property
    def remaining(self) -> int:
        return len(self._view) - self._position

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes. Raises MalformedMessage when there are fewer."""
        end = self._position + count
        if end > len(self._view):
            raise MalformedMessage(f"payload ends {end - len(self._view)} bytes short")
        view = self._view[self._position : end]
        self._position = end
        return view

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        return fields.unpack(self.take(fields.size))

    def compact_size(self) -> int:
        """A count in its shortest form. Raises MalformedMessage for any other form."""
        first: int = self.take(1)[0]
        if first < 0xFD:
            return first
        form, least = {0xFD: (_U16, 0xFD), 0xFE: (_U32, 0x10000), 0xFF: (_U64, 0x100000000)}[first]
        (value,) = self.unpack(form)
        if value < least:
            raise MalformedMessage(f"count {value} is not in its shortest form")
        return int(value)

    def count(self, maximum: int, what: str) -> int:
        """A compact size of at most ``maximum``; ``what`` names it in the error."""
        value = self.compact_size()
        if value > maximum:
            raise MalformedMessage(f"{value} {what}, at most {maximum}")
        return value


class NetworkAddress(msgspec.Struct, frozen=True):
    """26 bytes of a ``version``: services, IPv6 (or mapped IPv4) address, port."""

    services: int = 0
    address: bytes = bytes(16)
    port: int = 0

    @classmethod
    def of(cls, host: str, port: int, services: int = 0) -> Self:
        """From a host in numbers; a name, which has no form here, becomes all zeros."""
        try:
            parsed = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return cls(services, bytes(16), port)
        mapped = _IPV4_MAPPED if parsed.version == 4 else b""
        return cls(services, mapped + parsed.packed, port)

    @property
    def host(self) -> str:
        parsed = ipaddress.IPv6Address(self.address)
        return str(parsed.ipv4_mapped or parsed)

    def encode(self) -> bytes:
        return _U64.pack(self.services) + self.address + _PORT.pack(self.port)

    @classmethod
    def read(cls, reader: FieldReader) -> Self:
        (services,) = reader.unpack(_U64)
        address = bytes(reader.take(16))
        (port,) = reader.unpack(_PORT)
        return cls(services, address, port)


class TimedAddress(msgspec.Struct, frozen=True):
    """One entry of ``addr``; ``time`` is Unix time in seconds."""

    time: int
    address: NetworkAddress

    def encode(self) -> bytes:
        return _U32.pack(self.time) + self.address.encode()

    @classmethod
    def read(cls, reader: FieldReader) -> Self:
        (time,) = reader.unpack(_U32)
        return cls(time, NetworkAddress.read(reader))


class TimedAddressV2(msgspec.Struct, frozen=True):
    """One entry of ``addrv2`` (BIP155); ``network`` 1 is IPv4, 2 IPv6, others may be unknown."""

    time: int
    services: int
    network: int
    address: bytes
    port: int

    def encode(self) -> bytes:
        return b"".join(
            (
                _U32.pack(self.time),
                pack_compact_size(self.services),
                bytes((self.network,)),
                pack_count(len(self.address), ADDRESS_V2_BYTES_MAX, "address bytes"),
                self.address,
                _PORT.pack(self.port),
            )
        )

    @classmethod
    def read(cls, reader: FieldReader) -> Self:
        (time,) = reader.unpack(_U32)
        services = reader.compact_size()
        network = reader.take(1)[0]
        address = bytes(reader.take(reader.count(ADDRESS_V2_BYTES_MAX, "address bytes")))
        (port,) = reader.unpack(_PORT)
        return cls(time, services, network, address, port)
