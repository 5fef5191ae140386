"""Finding the processes that a killed supervisor left behind, and proving who they are.

To be asked only by the holder of the instance's lock (its counters): nobody else may be their
supervisor then. For every role there can be, the address is tried; where somebody listens

1. the kernel says who listens there (SO_PEERCRED): another user's process is left alone;
2. a pidfd is opened for that pid; the connection is not closed *after* that, so the process that
   holds the listening socket, and no other holds it, still lived: the pidfd is that process's;
3. it answers who it is: pid and start time again, instance, role, version, configuration.

Who answers all of it as expected is adopted; whoever is ours and does not is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterable
from typing import Final

import msgspec

from bitcoin_sprint.control.channel import (
    Identity,
    Inquiry,
    SupervisorEnd,
    address_of,
    peer_of,
    started_ticks,
)
from bitcoin_sprint.control.process_handle import ProcessHandle

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 3.0


class Found(msgspec.Struct, frozen=True):
    """A process of this user at a role's address. ``identity``: None when it does not answer."""

    role: str
    handle: ProcessHandle
    line: SupervisorEnd
    identity: Identity | None


class Expected(msgspec.Struct, frozen=True):
    """What a process must say of itself to be kept."""

    version: str
    digest: str


async def find(instance: str, roles: Iterable[str]) -> list[Found]:
    """Return who serves ``instance`` without a supervisor, in the order of ``roles``."""
    found = await asyncio.gather(*(_find(instance, role) for role in roles))
    return [each for each in found if each is not None]


def objection(found: Found, expected: Expected | None) -> str:
    """Return why a process cannot be kept, in words; "" when it can.

    ``expected``: None for a role that is not wanted any more.
    """
    identity = found.identity
    if identity is None:
        return "does not answer"
    if expected is None:
        return "is not configured any more"
    if identity.version != expected.version:
        return f"runs version {identity.version}, this is {expected.version}"
    if identity.digest != expected.digest:
        return "runs with another configuration"
    if not identity.ready:
        return "had not come to serve"
    return ""


async def _find(instance: str, role: str) -> Found | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.ExitStack() as closing:
        closing.callback(connection.close)
        connection.setblocking(False)
        address = address_of(instance, role)
        try:
            connection.connect(address)
        except OSError:
            return None  # nobody listens
        peer = peer_of(connection)
        shown = f"@{address[1:].decode()}"
        if peer.uid != os.geteuid():
            _log.warning("%s belongs to user %d: %s is not looked for", shown, peer.uid, role)
            return None
        try:
            handle = ProcessHandle(peer.pid)
        except ProcessLookupError:
            return None
        except OSError as error:  # no pid that means anything to us: of another namespace
            reason = error.strerror
            _log.warning("%s: pid %d there cannot be watched: %s", shown, peer.pid, reason)
            return None
        closing.callback(handle.release)
        line = SupervisorEnd(connection)
        try:
            identity = await _identify(line)
        except ConnectionError:
            if await handle.ended_within(_ANSWER_S):
                return None
            identity = None  # it does not understand us: as good as silent
        if identity is not None and not _is_who_it_says(identity, instance, role, peer.pid):
            _log.warning("%s: pid %d there is not our %s", shown, peer.pid, role)
            return None
        closing.pop_all()
        return Found(role, handle, line, identity)


async def _identify(line: SupervisorEnd) -> Identity | None:
    """Return who sits there; None when it does not say. ConnectionError when it hung up."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            await line.send(Inquiry())
            reply = await line.receive()
    except TimeoutError:
        return None
    return reply if isinstance(reply, Identity) else None


def _is_who_it_says(identity: Identity, instance: str, role: str, pid: int) -> bool:
    try:
        started = started_ticks(pid)
    except OSError:
        return False
    said = (identity.instance, identity.role, identity.pid, identity.started_ticks)
    return said == (instance, role, pid, started)
