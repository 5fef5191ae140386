"""Telling systemd how far we are (sd_notify(3)): READY=1, STOPPING=1."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send ``state`` to the service manager; nothing when there is none or it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state.encode())
        except OSError:
            return
