"""Starts the engine's processes, watches them, restarts those that die, and stops them all.

Design: one asyncio loop, one task a process. Relays start side by side with whatever feeds them,
for they wait for the rings by themselves; only who connects waits for whom it connects to. Stopping
goes downstream first, so that nobody reports the loss of what was meant to go. A process that dies
or hangs while the engine runs is started again, after a delay that doubles up to a bound and falls
back once the process has held for that long.

Invariants
- Who supervises: the holder of the lock of the instance's ``sprintd`` counters, nobody else. It is
  taken before any process is looked for and held to the end; a second one is refused by it.
- What belongs to whom: a process owns its rings, counters and sockets; the supervisor owns the
  processes. Where they ``stay``, its death costs them nothing: they serve on, and the next holder
  of the lock adopts them (``adoption``) or, where they run something else, replaces them.
- Who signals whom: only the supervisor, only through a pidfd (``process_handle``), so that no pid
  can have become another's. Each process is its own group: Ctrl-C reaches the supervisor alone.
- After ``stop`` no process, socket or shared-memory object of the instance is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from bitcoin_sprint.config import (
    RUNTIME_KEYS,
    Config,
    changed_keys,
    fixed_digest,
    with_runtime_keys,
)
from bitcoin_sprint.control import adoption, leftovers
from bitcoin_sprint.control.adoption import Expected, Found
from bitcoin_sprint.control.channel import VERSION, Order
from bitcoin_sprint.control.charge import Charge, StartFailed, counters_of
from bitcoin_sprint.control.placement import Placement, Seat, place, seat
from bitcoin_sprint.control.roles import known_roles, rooms_of, stages
from bitcoin_sprint.control.settling import refusals
from bitcoin_sprint.control.spawner import NurserySpawner, Spawner
from bitcoin_sprint.control.status import (
    TURBO_STATUS,
    State,
    memory_channel_warning,
    turbo_line,
    turbo_status,
)
from bitcoin_sprint.metrics import Counters

__all__ = ["StartFailed", "Supervisor"]

_log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_LATE_LOOK_S: Final = 5.0
_KILL_S: Final = 0.5


class Supervisor:
    """The processes of one instance. Runs within one asyncio loop.

    ``extra_roles`` start after all others and are watched like them (the demo's subscribers).
    ``stays``: whether processes serve on when the supervisor is killed, and those of a killed one
    are taken over. Raises WriterActive where the instance already runs.
    """

    def __init__(
        self,
        config: Config,
        extra_roles: Sequence[str] = (),
        *,
        stays: bool = False,
        spawner: Spawner | None = None,
    ) -> None:
        self._config = config
        self._stays: Final = stays
        self._placement: Final[Placement] = place(config)
        self._refused: Final = refusals(config, self._placement)
        self._stages = stages(config, extra_roles)
        self._extra: Final = tuple(extra_roles)
        self._stopping = False
        self._adopted = False
        self._tasks: list[asyncio.Task[None]] = []
        self._looked_at = 0.0
        roles = [role for stage in self._stages for role in stage]
        # All at once: who looks at us sees every role, or none.
        figures = [name for role in roles for name in counters_of(role)]
        self._counters = Counters.create(
            config.instance, "sprintd", ["restarts", *figures], labels=self._labels()
        )
        self.charges: Final[Mapping[str, Charge]] = {
            role: Charge(config.instance, role, self._counters) for role in roles
        }
        self._spawner: Final[Spawner] = spawner or NurserySpawner(rooms_of(self._stages))

    # ---- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything that does not run yet; on failure stop all and raise StartFailed.

        Where processes were adopted, they serve: then a failure is a restart to be tried again.
        """
        _log.info(
            "starting",
            extra={"instance": self._config.instance, "network": self._config.network}
            | {"waiting": "spin" if self._placement.spin else "block"}
            | {"because": self._placement.reason},
        )
        for reason in self._refused.values():
            _log.warning("%s", reason)
        self._spawner.prepare()
        try:
            if self._stays:
                adopting = asyncio.ensure_future(self._adopt())
                try:
                    await asyncio.shield(adopting)
                except asyncio.CancelledError:
                    await adopting  # to be stopped, they must be ours
                    raise
            feeding = [role for stage in self._stages[: self._relay_stage] for role in stage]
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_in_turn(feeding))
                for role in self._stages[self._relay_stage]:
                    group.create_task(self._start_in_turn([role]))
            await self._start_in_turn(self._extra)
        except BaseException as error:
            await self.stop()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._looked_at = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._keep(each)) for each in self.charges.values()]
        self._tasks.append(asyncio.create_task(self._look()))
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
        left = [[self.charges[role] for role in stage] for stage in reversed(self._stages)]
        while left:
            # Each stage has its share of the time that is left, so that none uses up another's.
            share = max(0.0, deadline - loop.time()) / len(left)
            await self._end(left.pop(0), share)
        await self._spawner.close()
        for charge in self.charges.values():
            charge.close()
            charge.mark(State.STOPPED)
        self._counters.close()
        swept = leftovers.sweep(self._config.instance, self._config.ring.directory)
        swept += leftovers.sweep_sockets(self._config.instance, self._config.relay.unix_directory)
        if swept:
            _log.warning("removed what killed processes left", extra={"objects": swept})

    async def reload(self, new: Config) -> None:
        """Take from ``new`` (checked, of the same instance) what can change while we run.

        What cannot is named in one warning, and comes with the next start.
        """
        changed = changed_keys(self._config, new)
        waiting = [path for path in changed if path not in RUNTIME_KEYS]
        self._config = with_runtime_keys(self._config, new)
        self._counters.label(TURBO_STATUS, self._labels()[TURBO_STATUS])
        running = list(self.charges.values())
        placed = self._placed
        taken = await asyncio.gather(*(charge.reload(placed) for charge in running))
        for charge, took in zip(running, taken, strict=True):
            if not took:
                _log.warning("%s does not take the new configuration", charge.role)
        if waiting:
            _log.warning(
                "these keys have changed and need a restart: %s",
                ", ".join(waiting),
            )
        applied = [path for path in changed if path in RUNTIME_KEYS]
        _log.info("configuration reloaded", extra={"changed": ",".join(applied)})

    def seat(self, role: str) -> Seat:
        """Return what a process takes of the host."""
        return seat(self._config, self._placement, role, self._refused)

    @property
    def config(self) -> Config:
        """The configuration as it is in effect."""
        return self._config

    @property
    def watching(self) -> bool:
        """Whether every process is being watched: no task has ended, and the last look is fresh."""
        late = asyncio.get_running_loop().time() - self._looked_at > _LATE_LOOK_S
        return bool(self._tasks) and not late and not any(task.done() for task in self._tasks)

    async def failed(self) -> None:
        """Wait until watching breaks down by a fault of ours, and raise it."""
        while not self._tasks:
            await asyncio.sleep(_LOOK_S)
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    @property
    def summary(self) -> str:
        """How the engine stands, in one line."""
        away = [role for role, charge in self.charges.items() if not charge.serving]
        if away:
            return f"restarting {', '.join(away)}"
        tiers = ", ".join(tier.name for tier in self._config.running_tiers)
        return f"serving {tiers} on {self._config.network}, {len(self.charges)} processes"

    # ---- starting --------------------------------------------------------------------------

    @property
    def _placed(self) -> Config:
        """The configuration for our processes: told what was decided, none asks the host again."""
        wait: Literal["spin", "block"] = "spin" if self._placement.spin else "block"
        control = msgspec.structs.replace(self._config.control, wait=wait)
        return msgspec.structs.replace(self._config, control=control)

    @property
    def _relay_stage(self) -> int:
        return len(self._stages) - 1 - bool(self._extra)

    def _order(self, role: str) -> Order:
        config, seat = self._placed, self.seat(role)
        told = msgspec.to_builtins(msgspec.structs.replace(seat, reasons={}))
        digest = fixed_digest(config, role, told, self._stays)
        return Order(role=role, config=config, seat=seat, stays=self._stays, digest=digest)

    def _labels(self) -> dict[str, str]:
        return {
            "network": self._config.network,
            "placement": self._placement.reason,
            TURBO_STATUS: msgspec.json.encode(turbo_status(self._config)).decode(),
        }

    async def _adopt(self) -> None:
        """Take over who serves already; end, downstream first, whoever serves something else."""
        replaced = []
        for found in await adoption.find(self._config.instance, known_roles()):
            why = adoption.objection(found, self._expected(found.role))
            if why:
                _log.warning(
                    "%s of a killed sprintd %s and is ended",
                    found.role,
                    why,
                    extra={"child_pid": found.handle.pid},
                )
                replaced.append(found)
            else:
                self.charges[found.role].adopt(found, self._placed)
                self._adopted = True
                _log.info("%s is adopted", found.role, extra={"child_pid": found.handle.pid})
        share = self._config.control.stop_timeout_ns / 1e9 / max(1, len(replaced))
        for found in reversed(replaced):
            await _end_found(found, share)

    def _expected(self, role: str) -> Expected | None:
        if role not in self.charges:
            return None
        return Expected(VERSION, self._order(role).digest)

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

    async def _start_in_turn(self, roles: Iterable[str]) -> None:
        """Start the roles that do not run yet, each once the one before serves."""
        for role in roles:
            if self.charges[role].serving:
                continue
            try:
                await self._start(self.charges[role])
            except StartFailed as error:
                if not self._adopted:
                    raise
                _log.error("%s", error, extra={"restart_in_s": self._delay_min})

    async def _start(self, charge: Charge) -> None:
        timeout_s = self._config.control.ready_timeout_ns / 1e9
        order = self._order(charge.role)
        await charge.start(order, self._spawner, timeout_s)
        assert charge.process is not None
        if order.config != self._placed:
            await charge.reload(self._placed)  # it was changed meanwhile
        _log.info("%s is ready", charge.role, extra={"child_pid": charge.process.pid})

    # ---- watching --------------------------------------------------------------------------

    async def _keep(self, charge: Charge) -> None:
        """Start the role again whenever its process ends, until cancelled."""
        loop = asyncio.get_running_loop()
        delay = self._delay_min
        while True:
            since = loop.time()
            if charge.started and charge.process is not None:
                await charge.process.exited.wait()
                if loop.time() - since > self._delay_max:
                    delay = self._delay_min
                told = {"restart_in_s": delay}
                _log.error("%s died (%s)", charge.role, charge.ending, extra=told)
            charge.mark(State.WAITING)
            await asyncio.sleep(delay)
            delay = min(self._delay_max, 2 * delay)
            charge.restarts += 1
            self._counters["restarts"].add()
            try:
                await self._start(charge)
            except StartFailed as error:
                _log.error("%s", error, extra={"restart_in_s": delay})

    @property
    def _delay_min(self) -> float:
        return self._config.control.restart_delay_min_ns / 1e9

    @property
    def _delay_max(self) -> float:
        return self._config.control.restart_delay_max_ns / 1e9

    async def _look(self) -> None:
        """Beat, and look whether everybody else does, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._looked_at = now = loop.time()
            self._counters.heartbeat()
            timeout_s = self._config.control.heartbeat_timeout_ns / 1e9
            for charge in self.charges.values():
                charge.look(now, _LOOK_S, timeout_s)
            self._spawner.tidy()
            await asyncio.sleep(_LOOK_S)

    # ---- stopping --------------------------------------------------------------------------

    async def _end(self, stage: Sequence[Charge], within_s: float) -> None:
        """End the processes of one stage, by force after ``within_s``."""
        deadline = asyncio.get_running_loop().time() + within_s
        running = [each for each in stage if each.running and each.process is not None]
        for charge in running:
            assert charge.process is not None
            charge.process.terminate()
        for charge in running:
            assert charge.process is not None
            patience = max(0.0, deadline - asyncio.get_running_loop().time())
            if not await charge.process.ended_within(patience):
                _log.warning("%s did not stop in time and is killed", charge.role)
                if not await charge.kill(_KILL_S):
                    _log.error("%s cannot be killed: it waits for the kernel", charge.role)
            charge.mark(State.STOPPED)


async def _end_found(found: Found, within_s: float) -> None:
    if found.identity is not None:
        found.handle.terminate()
        if await found.handle.ended_within(within_s):
            found.line.close()
            return
    found.handle.kill()
    await found.handle.ended_within(_KILL_S)
    found.line.close()
