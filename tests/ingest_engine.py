"""The ingest process as a child of a test, and its stream of tips."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from intake_rig import replay_tips, seen_frame

from bitcoin_sprint.config import Config, load
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.ring import Reader

PATIENCE_S = 30.0
RUN = """
import sys
from bitcoin_sprint.config import Config
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.ingest.process import main
try:
    main(Config.decode(sys.stdin.buffer.read()), lambda: print("ready", flush=True))
except SprintError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Engine:
    """One ingest process after the other, of one instance."""

    def __init__(self, folder: Path, **overrides: object) -> None:
        self.instance = f"t-{uuid.uuid4().hex[:12]}"
        self.folder = folder
        self._overrides = overrides
        self.process: asyncio.subprocess.Process | None = None

    @property
    def config(self) -> Config:
        return load(
            None,
            {
                "instance": self.instance,
                "network": "regtest",
                "data_dir": str(self.folder),
                "ring.blocks_arena": "32MiB",
                "ring.tx_arena": "8MiB",
                "ring.tx_slots": 4096,
                "ingest.dns_seeds": False,
                **self._overrides,
            },
        )

    async def start(self) -> None:
        self.process = await self.spawn()
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            assert await self.process.stdout.readline() == b"ready\n"

    async def spawn(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert process.stdin is not None
        process.stdin.write(self.config.encode())
        process.stdin.close()
        return process

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(10):
            return await self.process.wait()

    def left_behind(self) -> list[str]:
        return [path.name for path in Path("/dev/shm").glob(f"sprint.{self.instance}.*")]

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = CountersView.attach(self.instance, "ingest").snapshot()[
            "counters"
        ]
        return counters

    async def until(self, is_so: Callable[[dict[str, int]], object]) -> None:
        """Wait until the counters say so."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so(self.counters()):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(folder: Path, **overrides: Any) -> AsyncIterator[Engine]:
    """A started engine; whatever happens, nothing of it is left."""
    engine = Engine(folder, **overrides)
    try:
        await engine.start()
        yield engine
    finally:
        if engine.process is not None and engine.process.returncode is None:
            engine.process.kill()
            await engine.process.wait()
        for name in engine.left_behind():
            Path("/dev/shm", name).unlink()


async def follow(reader: Reader, tip: bytes, target: bytes) -> bytes:
    """Read TIP frames of level merkle until the chain stands on ``target``."""
    async with asyncio.timeout(20):
        while tip != target:
            frame = seen_frame(await reader.next())
            is_start = not tip and frame.kind is Kind.TIP
            tip = frame.hash if is_start else replay_tips(tip, [frame])
    return tip
