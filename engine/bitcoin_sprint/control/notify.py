"""Telling systemd how we are (sd_notify(3)): ready, reloading, stopping, alive, and in a line how.

Without a service manager every call does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """The service manager that started this process, if one did."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = address if address.startswith(("/", "@")) else ""
        self._status = ""

    @property
    def watchdog_s(self) -> float | None:
        """Within which time it wants to hear that we live; None when it does not ask us."""
        pid, text = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
        if not self._address or not text.isdecimal() or (pid and pid != str(os.getpid())):
            return None
        return int(text) / _MICROSECONDS or None

    def ready(self, status: str) -> None:
        """We serve; or, after ``reloading``, serve by the new configuration."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read anew; ``ready`` ends that."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """We have begun to stop."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """How we are, in one line; told when it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a manager that hangs is no reason for us to
            try:
                sender.connect("\0" + address[1:] if address.startswith("@") else address)
                sender.send("\n".join(lines).encode())
            except OSError:
                return
