"""Starts the engine's processes, restarts those that die, and stops them all.

Design: one asyncio loop, one task a process. Processes start upstream first (the simulated node,
ingest, then the relays side by side), each when the one before serves, and stop downstream first,
so that nobody reports the loss of what was meant to go. Each is its own process group: Ctrl-C
reaches the supervisor alone. A process that dies while the engine runs is started again, after a
delay that doubles up to a bound and falls back once the process has held for that long.

Invariant: after ``stop`` no process, socket or shared-memory object of the instance is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.control import leftovers
from bitcoin_sprint.control.channel import Answer, Order, decode_answer, encode_order
from bitcoin_sprint.control.placement import Placement, Seat, place, seat
from bitcoin_sprint.control.settling import refusals
from bitcoin_sprint.control.status import (
    TURBO_STATUS,
    State,
    memory_channel_warning,
    turbo_line,
    turbo_status,
)
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.metrics import Counters

_log = logging.getLogger(__name__)

_HEARTBEAT_S: Final = 1.0
_ANSWER_BYTES_MAX: Final = 1 << 16


class StartFailed(SprintError):
    """A process could not start; ends the engine with that process's exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Child:
    """One process of the engine, over all its starts."""

    def __init__(self, role: str, counters: Counters) -> None:
        self.role: Final = role
        self.restarts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.exited = asyncio.Event()
        self._line: socket.socket | None = None
        self._state = counters.counter(f"process.{role}.state")
        self._pid = counters.counter(f"process.{role}.pid")
        self._restarts = counters.counter(f"process.{role}.restarts")

    @property
    def running(self) -> bool:
        return self.process is not None and not self.exited.is_set()

    def mark(self, state: State) -> None:
        self._state.set(state)
        self._pid.set(self.process.pid if self.running and self.process else 0)
        self._restarts.set(self.restarts)

    async def start(self, order: Order, timeout_s: float) -> None:
        """Start the process and wait until it serves; StartFailed when it does not."""
        self.close()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._line = ours
        self.exited.clear()
        with theirs:
            self.process = subprocess.Popen(
                _command(self.role, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        self._watch(self.process)
        self.mark(State.STARTING)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await _give_order(ours, order)
                if answer is None or not answer.ready:
                    await self.exited.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.exited.wait()
            raise StartFailed(f"{self.role}: not ready within {timeout_s:g} s", 1) from None
        if answer is None or not answer.ready:
            code = self.process.returncode
            reason = answer.error if answer else f"died at its start ({_ending(code)})"
            raise StartFailed(f"{self.role}: {reason}", code if code > 0 else 1)
        self.mark(State.READY)

    def close(self) -> None:
        """Close the line to a process that has ended."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it runs. Its pid cannot be another's: it was not reaped yet."""
        if self.running and self.process is not None:
            self.process.send_signal(number)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Set ``exited`` when the process ends."""
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(process.pid)

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            process.wait()
            self.exited.set()

        loop.add_reader(descriptor, ended)


class Supervisor:
    """The processes of one instance. Runs within one asyncio loop.

    ``extra_roles`` start after all others and are watched like them (the demo's subscribers).
    Raises WriterActive where the instance already runs.
    """

    def __init__(self, config: Config, extra_roles: Sequence[str] = ()) -> None:
        self._config = config
        self._placement: Final[Placement] = place(config)
        self._refused: Final = refusals(config, self._placement)
        # Processes are told what was decided: none of them asks the host again.
        wait: Literal["spin", "block"] = "spin" if self._placement.spin else "block"
        control = msgspec.structs.replace(config.control, wait=wait)
        self._placed: Final = msgspec.structs.replace(config, control=control)
        self._stages = stages(config, extra_roles)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._counters = Counters.create(
            config.instance,
            "sprintd",
            ["restarts"],
            labels={
                "network": config.network,
                "placement": self._placement.reason,
                TURBO_STATUS: msgspec.json.encode(turbo_status(config)).decode(),
            },
        )
        self.children: Final[Mapping[str, Child]] = {
            role: Child(role, self._counters) for stage in self._stages for role in stage
        }

    async def start(self) -> None:
        """Start everything, upstream first. On failure stops what runs and raises StartFailed."""
        _log.info(
            "starting",
            extra={"instance": self._config.instance, "network": self._config.network}
            | {"waiting": "spin" if self._placement.spin else "block"}
            | {"because": self._placement.reason},
        )
        for reason in self._refused.values():
            _log.warning("%s", reason)
        try:
            for stage in self._stages:
                async with asyncio.TaskGroup() as group:
                    for role in stage:
                        group.create_task(self._start_child(self.children[role]))
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._tasks = [asyncio.create_task(self._keep(child)) for child in self.children.values()]
        self._tasks.append(asyncio.create_task(self._beat()))
        self._announce()

    async def stop(self) -> None:
        """Stop everything, downstream first, by force what does not obey, and sweep up."""
        if self._stopping:
            return
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.control.stop_timeout_ns / 1e9
        for stage in reversed(self._stages):
            running = [self.children[role] for role in stage if self.children[role].running]
            for child in running:
                child.send(signal.SIGTERM)
            for child in running:
                await self._await_end(child, deadline)
                child.mark(State.STOPPED)
        for child in self.children.values():
            child.close()
        self._counters.close()
        swept = leftovers.sweep(self._config.instance, self._config.ring.directory)
        if swept:
            _log.warning("removed what killed processes left", extra={"objects": swept})

    def seat(self, role: str) -> Seat:
        """Return what a process takes of the host."""
        return seat(self._config, self._placement, role, self._refused)

    def _announce(self) -> None:
        """Log that the engine serves, in the contract's words where turbo mode is on."""
        warning = memory_channel_warning(self._config)
        if warning is not None:
            _log.warning("%s", warning)
        line = turbo_line(self._config)
        if line is not None:
            _log.info("%s", line)
        tiers = [f"{tier.name}:{tier.stream_port}" for tier in self._config.running_tiers]
        _log.info("serving", extra={"tiers": ",".join(tiers), "instance": self._config.instance})

    async def _await_end(self, child: Child, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await child.exited.wait()
        except TimeoutError:
            _log.warning("%s did not stop in time and is killed", child.role)
            child.send(signal.SIGKILL)
            await child.exited.wait()

    async def _start_child(self, child: Child) -> None:
        order = Order(role=child.role, config=self._placed, seat=self.seat(child.role))
        await child.start(order, self._config.control.ready_timeout_ns / 1e9)
        assert child.process is not None
        _log.info("%s is ready", child.role, extra={"child_pid": child.process.pid})

    async def _keep(self, child: Child) -> None:
        """Start the child again whenever it ends, until cancelled."""
        control = self._config.control
        loop = asyncio.get_running_loop()
        delay_min, delay_max = (
            control.restart_delay_min_ns / 1e9,
            control.restart_delay_max_ns / 1e9,
        )
        delay = delay_min
        while True:
            since = loop.time()
            await child.exited.wait()
            if loop.time() - since > delay_max:
                delay = delay_min
            assert child.process is not None
            ending = _ending(child.process.returncode)
            _log.error("%s died (%s)", child.role, ending, extra={"restart_in_s": delay})
            while True:
                child.mark(State.WAITING)
                await asyncio.sleep(delay)
                delay = min(delay_max, 2 * delay)
                child.restarts += 1
                self._counters["restarts"].add()
                try:
                    await self._start_child(child)
                    break
                except StartFailed as error:
                    _log.error("%s", error, extra={"restart_in_s": delay})

    async def _beat(self) -> None:
        while True:
            self._counters.heartbeat()
            await asyncio.sleep(_HEARTBEAT_S)


def stages(config: Config, extra_roles: Sequence[str] = ()) -> list[list[str]]:
    """Return the roles that run, in stages: those of a stage start side by side."""
    relays = [f"relay-{tier.name}" for tier in config.running_tiers]
    return [
        *([["sim"]] if config.sim.enabled else []),
        ["ingest"],
        relays,
        *([list(extra_roles)] if extra_roles else []),
    ]


def _command(role: str, descriptor: int) -> list[str]:
    # -P: a file in the working directory must not pass for a module of ours.
    return [sys.executable, "-P", "-m", "bitcoin_sprint.control.child", role, str(descriptor)]


async def _give_order(line: socket.socket, order: Order) -> Answer | None:
    """Send a process its order and return its answer; None when it closed the line instead."""
    loop = asyncio.get_running_loop()
    received = b""
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(line, encode_order(order))
        while not received.endswith(b"\n") and len(received) < _ANSWER_BYTES_MAX:
            piece = await loop.sock_recv(line, 4096)
            if not piece:
                break
            received += piece
    return decode_answer(received)


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"signal {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"
