"""Ports that we are to listen on: opened, or refused in words that say what to change."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import psutil

from bitcoin_sprint.errors import HostError

_ADVICE: Final = {
    errno.EADDRINUSE: "choose another port",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "this host has no such address",
}


def listen_tcp(key: str, host: str, port: int, backlog: int) -> socket.socket:
    """A non-blocking listener on host:port (0: any free one); ``key`` is the port's setting.

    Raises HostError, which names the key, the port, and who has it as far as the host tells.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise HostError(refusal(key, host, port, error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise HostError(refusal(key, host, port, error)) from error
    return listener


def refusal(key: str, host: str, port: int, error: OSError) -> str:
    """Why host:port can't be listened on, and what to do."""
    number = error.errno or 0
    reason = os.strerror(number).lower() if number > 0 else str(error)
    if number == errno.EADDRINUSE:
        reason += _holder(port)
    advice = f"; {_ADVICE[number]}" if number in _ADVICE else ""
    return f"{key} = {port}: cannot listen on {host}:{port}: {reason}{advice}"


def _holder(port: int) -> str:
    """Who listens on a port, "" where the host does not tell."""
    try:
        pids = [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr[1:] == (port,) and each.pid
        ]
        return f" by {psutil.Process(pids[0]).name()} (pid {pids[0]})" if pids else ""
    except (psutil.Error, OSError, RuntimeError):
        return ""
