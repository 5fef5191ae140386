"""Where a subscriber connects to: ``tcp://host:port``, ``unix:///path``, ``zmq+tcp://host:port``."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from bitcoin_sprint.errors import ConfigError


class Address(msgspec.Struct, frozen=True):
    """A parsed address; ``host`` and ``port`` for TCP, ``path`` for a Unix socket."""

    transport: Literal["tcp", "unix", "zmq"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def zmq_endpoint(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address; raises ConfigError naming what is wrong with it."""
    parts = urlsplit(text)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address("unix", path=parts.path)
    if parts.scheme in ("tcp", "zmq+tcp"):
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"address = {text!r}: {error}") from None
        if host and port and not parts.path:
            return Address("tcp" if parts.scheme == "tcp" else "zmq", host=host, port=port)
    raise ConfigError(
        f"address = {text!r}: expected tcp://host:port, unix:///path or zmq+tcp://host:port"
    )
