"""Addresses in the configuration, checked as texts: nothing is resolved or connected to.

Each ``check_…`` raises ValueError, which says what was expected.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")
_HOST_BYTES_MAX: Final = 253
_PORT: Final = re.compile("[0-9]{1,5}")
_PORT_MAX: Final = 65_535
_UNIX_PATH_BYTES_MAX: Final = 107
# Up to the last @: a password may hold any character, / and @ too, where it should not.
_CREDENTIALS: Final = re.compile(r"(?<=(?<!ipc:)//).*(?=@)", re.DOTALL)


def check_host(host: str) -> None:
    """Check an address in numbers (IPv6 without brackets) or a host name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.removesuffix(".")
        # A name whose last part is a number is an IPv4 address that is none.
        numeric = name.rpartition(".")[2].isdigit()
        if numeric or len(name) > _HOST_BYTES_MAX or not _HOST_NAME.fullmatch(name):
            raise ValueError(
                "must be an address such as 127.0.0.1 or ::1, or a host name"
            ) from None


def check_host_port(text: str) -> None:
    """Check ``host:port``, an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or not 1 <= int(port) <= _PORT_MAX:
        raise ValueError("must be host:port, port 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError("must be host:port, only an IPv6 address in brackets")
    elif ":" in host:
        raise ValueError("must be host:port, an IPv6 address in brackets")
    try:
        check_host(host)
    except ValueError:
        raise ValueError("must be host:port, such as 10.0.0.5:8333 or node.lan:8333") from None


def check_zmq_address(text: str) -> None:
    """Check where a node publishes: ``tcp://host:port`` or ``ipc:///path``."""
    transport, _, rest = text.partition("://")
    expected = "must be tcp://host:port, such as tcp://127.0.0.1:28332, or ipc:///path"
    if transport == "ipc" and 0 < len(rest.encode()) <= _UNIX_PATH_BYTES_MAX:
        return
    if transport != "tcp":
        raise ValueError(expected)
    try:
        check_host_port(rest)
    except ValueError:
        raise ValueError(expected) from None


def check_rpc_url(text: str) -> None:
    """Check the URL of a node's JSON-RPC."""
    expected = "must be http://host:port or https://host:port, such as http://127.0.0.1:8332"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in ("http", "https") or port == 0 or parts.query or parts.fragment:
        raise ValueError(expected)
    try:
        check_host(parts.hostname or "")
    except ValueError:
        raise ValueError(expected) from None


def without_credentials(text: str) -> str:
    """Return a text with the user and password of every URL in it hidden."""
    return _CREDENTIALS.sub("***", text)
