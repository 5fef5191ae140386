"""A JSON-RPC server for tests, that answers from a function and misbehaves on request."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self


class RpcFailure(Exception):
    """Raised by an answer function: a refusal with Bitcoin Core's code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RpcServer:
    """``answer(method, params)`` gives results. ``async with RpcServer(answer) as server``.

    ``raw_answer``: sent instead of any answer, whatever was asked. ``status``: of every answer.
    ``is_stalled``: requests are read and never answered. ``closes``: the connection is closed after
    each answer without a word about it.
    """

    def __init__(
        self, answer: Callable[[str, Sequence[Any]], Any], *, credentials: str = "user:password"
    ) -> None:
        self._answer = answer
        self.credentials = credentials
        self.calls: Counter[str] = Counter()
        self.connections_count = 0
        self.requests_count = 0
        self.raw_answer: bytes | None = None
        self.status = 200
        self.is_stalled = False
        self.closes = False
        self.is_chunked = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
            serving = list(self._serving)
            for writer in self._serving.values():
                writer.transport.abort()
            await asyncio.gather(*serving)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():
            writer.transport.abort()  # it came in while we stopped
            return
        self.connections_count += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line
                )
                body = await reader.readexactly(int(headers["content-length"]))
                token = next(
                    line.split()[-1] for line in head.split("\r\n") if "uthorization" in line
                )
                if self.is_stalled:
                    continue
                writer.write(self._respond(base64.b64decode(token).decode(), body))
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._serving[task]
            writer.close()

    def _respond(self, credentials: str, body: bytes) -> bytes:
        self.requests_count += 1
        if self.raw_answer is not None:
            return self.raw_answer
        if credentials != self.credentials:
            return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
        request = json.loads(body)
        single = isinstance(request, dict)
        answers = [self._one(each) for each in ([request] if single else request)]
        text = json.dumps(answers[0] if single else answers).encode()
        head = f"HTTP/1.1 {self.status} Whatever\r\nContent-Type: application/json\r\n"
        if not self.is_chunked:
            return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text
        half = len(text) // 2
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part) for part in (text[:half], text[half:], b"")
        )
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks

    def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        self.calls[request["method"]] += 1
        try:
            result = self._answer(request["method"], request["params"])
        except RpcFailure as failure:
            error = {"code": failure.code, "message": str(failure)}
            return {"id": request["id"], "result": None, "error": error}
        return {"id": request["id"], "result": result, "error": None}
