"""One role of the engine under its supervisor: over all its starts, adopted or born here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from bitcoin_sprint.config import Config
from bitcoin_sprint.control.adoption import Found
from bitcoin_sprint.control.channel import Answer, Order, Reload, SupervisorEnd
from bitcoin_sprint.control.process_handle import ProcessHandle
from bitcoin_sprint.control.pulse import Pulse
from bitcoin_sprint.control.spawner import Spawner
from bitcoin_sprint.control.status import State
from bitcoin_sprint.errors import HostError, SprintError
from bitcoin_sprint.metrics import Counters


class StartFailed(SprintError):
    """A process could not start; ends the engine with that process's exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def counters_of(role: str) -> list[str]:
    """Return the names of a role's counters among the supervisor's."""
    return [f"process.{role}.{figure}" for figure in ("state", "pid", "restarts")]


class Charge:
    """A role, the process that has it now, and the line to that process."""

    def __init__(self, instance: str, role: str, counters: Counters) -> None:
        self.role: Final = role
        self.restarts = 0
        self.process: ProcessHandle | None = None
        self._instance = instance
        self._line: SupervisorEnd | None = None
        self._pulse: Pulse | None = None
        self._hung_s = 0.0
        self._ready = False
        self._state, self._pid, self._restarts = (counters[name] for name in counters_of(role))

    @property
    def running(self) -> bool:
        """Whether there is a process, serving or not."""
        return self.process is not None and self.process.running

    @property
    def started(self) -> bool:
        """Whether the process came to serve, even if it has ended since."""
        return self._ready

    @property
    def serving(self) -> bool:
        """Whether the process has come to serve, and has not ended since."""
        return self.running and self._ready

    def mark(self, state: State) -> None:
        """Show how the role stands in the supervisor's counters."""
        self._state.set(state)
        self._pid.set(self.process.pid if self.running and self.process else 0)
        self._restarts.set(self.restarts)

    async def start(self, order: Order, spawner: Spawner, timeout_s: float) -> None:
        """Start a process and wait until it serves; StartFailed when it does not."""
        self.close()
        answer = None
        try:
            async with asyncio.timeout(timeout_s):
                process, end = await spawner.spawn(self.role)
                self.process = process
                self._line = line = SupervisorEnd(end)
                self.mark(State.STARTING)
                if await line.send(order):
                    with contextlib.suppress(ConnectionError):
                        answer = await line.receive()
                if not isinstance(answer, Answer) or not answer.ready:
                    await process.exited.wait()
        except TimeoutError:
            await self.kill()
            raise StartFailed(f"{self.role}: not ready within {timeout_s:g} s", 1) from None
        except SprintError as error:
            raise StartFailed(str(error), error.exit_code) from None
        except OSError as error:
            text = f"{self.role}: cannot be started: {error.strerror}"
            raise StartFailed(text, HostError.exit_code) from None
        if not process.running:
            said = isinstance(answer, Answer) and answer.error
            reason = said or f"died at its start ({process.ending})"
            code = process.exit_code or 0
            raise StartFailed(f"{self.role}: {reason}", code if code > 0 else 1)
        self._serve()

    def adopt(self, found: Found, config: Config) -> None:
        """Take over a process that serves already; ``config`` as for ``reload``."""
        self.close()
        self.process, self._line = found.handle, found.line
        self._line.adopt(config)
        self._serve()

    async def reload(self, config: Config) -> bool:
        """Hand a configuration to the process; whether it took it (or there is none)."""
        return not self.serving or self._line is None or await self._line.send(Reload(config))

    def look(self, now_s: float, pause_s: float, timeout_s: float) -> None:
        """Look at the heartbeat; a process that has not beaten for ``timeout_s`` is killed."""
        if self._pulse is None or not self.serving or self.process is None or self._hung_s:
            return
        self._pulse.look(now_s, pause_s)
        if self._pulse.silent_s > timeout_s:
            self._hung_s = self._pulse.silent_s
            self.process.kill()

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        assert self.process is not None
        if self._hung_s:
            return f"no heartbeat for {self._hung_s:.0f} s, so it was killed"
        return self.process.ending

    async def kill(self, within_s: float = 1.0) -> bool:
        """Kill the process, if there is one; whether it is gone."""
        if self.process is None:
            return True
        self.process.kill()
        return await self.process.ended_within(within_s)

    def close(self) -> None:
        """Close the line to a process that has ended, and its counters."""
        if self._line is not None:
            self._line.close()
        if self._pulse is not None:
            self._pulse.close()
        self._line = self._pulse = None
        self._ready = False
        self._hung_s = 0.0

    def _serve(self) -> None:
        assert self.process is not None
        self._ready = True
        self._pulse = Pulse(self._instance, self.role, self.process.pid)
        self.mark(State.READY)
