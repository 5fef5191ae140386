"""A small JSON-RPC client for a node: HTTP/1.1 over asyncio streams, connections kept.

Why not a library: one host, one path, POST only, a known length both ways. What matters here is the
rest, and no HTTP library knows it: the cookie file is read again when the node has restarted, an
idle connection that the node closed is replaced without an error, an answer is bounded, and each
error says what to do about it. Every call made through it only reads, so it may be sent twice.
"""

from __future__ import annotations

import asyncio
import base64
import math
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bitcoin_sprint.errors import ConfigError, FeedError, FeedTimeout

ANSWER_BYTES_MAX: Final = 256 << 20
"""Longest answer: a mempool of a million txids as text, with room."""
BATCH_MAX: Final = 1_000
"""Calls in one HTTP request."""

_LINE_BYTES_MAX = 1 << 16
_HEADERS_MAX = 100


class RpcError(FeedError):
    """The node's refusal of one call; ``code`` is Bitcoin Core's."""

    NOT_FOUND = -5
    OUT_OF_RANGE = -8
    WARMING_UP = -28

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code


class RpcUnauthorized(FeedError):
    """The node does not accept our credentials."""


class _Answer(msgspec.Struct):
    id: int = 0
    result: Any = None
    error: dict[str, Any] | None = None


class _Connection:
    """One kept HTTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.reusable = True

    def close(self) -> None:
        self.reusable = False
        self._writer.close()

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; the answer's status and body. EOFError: closed before it answered."""
        self._writer.write(request)
        await self._writer.drain()
        status_line = await self._reader.readline()
        if not status_line:
            raise EOFError
        words = status_line.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise FeedError(f"this is no HTTP server: it answered {status_line[:40]!r}")
        headers = await self._headers()
        body = await self._body(headers)
        if headers.get("connection", "").lower() == "close" or words[0] == b"HTTP/1.0":
            self.close()
        return int(words[1]), body

    async def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADERS_MAX):
            line = (await self._reader.readline()).decode("latin-1").strip()
            if not line:
                return headers
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        raise FeedError(f"an HTTP answer with more than {_HEADERS_MAX} header lines")

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._chunks()
        if "content-length" not in headers:
            self.reusable = False
            body = await self._reader.read(ANSWER_BYTES_MAX + 1)
            _check_length(len(body))
            return body
        try:
            length = int(headers["content-length"])
        except ValueError:
            raise FeedError(f"content-length is {headers['content-length']!r}") from None
        _check_length(length)
        return await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = await self._reader.readline()
            try:
                length = int(line.split(b";")[0], 16)
            except ValueError:
                raise FeedError(f"a chunk's length is {line[:20]!r}") from None
            _check_length(len(body) + length)
            body += await self._reader.readexactly(length)
            await self._reader.readline()
            if length == 0:
                return bytes(body)


class RpcClient:
    """Calls to one node. One asyncio thread; calls may overlap, up to ``connections_max``."""

    def __init__(
        self,
        url: str,
        *,
        cookie: Path | None = None,
        user: str = "",
        password: str = "",
        timeout_seconds: float = 30.0,
        connections_max: int = 4,
    ) -> None:
        """``cookie``: the node's cookie file; else ``user`` and ``password``, here or in ``url``.

        Raises ConfigError for a URL that can't be called.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (KeyError, ValueError):
            raise ConfigError(
                f"rpc_url: {url!r} is no URL of the form http://127.0.0.1:8332"
            ) from None
        if not parts.hostname:
            raise ConfigError(f"rpc_url: {url!r} names no host")
        self.address = f"{parts.hostname}:{port}"
        self._host, self._port = parts.hostname, port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path or "/"
        self._cookie = cookie
        self._user = user or parts.username or ""
        self._password = password or parts.password or ""
        self._authorization: str | None = None
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(connections_max)

    async def call(self, method: str, *params: Any, timeout_seconds: float = math.inf) -> Any:
        """One call's result, within the client's bound or ``timeout_seconds``.

        Raises RpcError for the node's refusal, RpcUnauthorized, FeedTimeout, and FeedError where
        the node can't be reached or talks nonsense.
        """
        content = {"id": 0, "method": method, "params": params}
        body = await self._request(content, method, timeout_seconds)
        answer = _decode(body, _Answer, method)
        if answer.error is not None:
            raise _refusal(method, answer.error)
        return answer.result

    async def batch(self, method: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        """Results of the same call with several arguments, in their order; an RpcError in place of
        a result that was refused. Raises as ``call`` does for what concerns them all."""
        results: list[Any] = []
        for start in range(0, len(params), BATCH_MAX):
            part = params[start : start + BATCH_MAX]
            calls = [
                {"id": index, "method": method, "params": each} for index, each in enumerate(part)
            ]
            answers = _decode(await self._request(calls, method), list[_Answer], method)
            by_id = {answer.id: answer for answer in answers}
            if by_id.keys() != set(range(len(part))):
                raise FeedError(f"{self.address} answered {len(answers)} of {len(part)} calls")
            for index in range(len(part)):
                error = by_id[index].error
                results.append(_refusal(method, error) if error else by_id[index].result)
        return results

    def close(self) -> None:
        """Close what is idle; calls under way end by themselves."""
        while self._idle:
            self._idle.pop().close()

    async def _request(self, content: Any, method: str, timeout_seconds: float = math.inf) -> bytes:
        payload = msgspec.json.encode(content)
        bound = min(timeout_seconds, self._timeout_seconds)
        try:
            async with asyncio.timeout(bound), self._slots:
                status, body = await self._exchange(payload)
                if status == 401:
                    # The node may have restarted, with a new cookie.
                    self._authorization = None
                    status, body = await self._exchange(payload)
        except TimeoutError:
            raise FeedTimeout(
                f"{method}: {self.address} did not answer within {bound:g} s"
            ) from None
        except (OSError, EOFError) as error:
            detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise FeedError(
                f"{method}: {self.address} can't be reached: {detail}; is the node running, and is "
                "rpc_url right?"
            ) from None
        except ValueError as error:  # a line longer than the reader's bound
            raise FeedError(f"{method}: {self.address} answers no HTTP: {error}") from None
        self._check_status(status, body, method)
        return body

    async def _exchange(self, payload: bytes) -> tuple[int, bytes]:
        request = self._head(len(payload)) + payload
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange_on(connection, request)
            except (ConnectionError, EOFError):
                continue  # the node closed it while it was idle
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=_LINE_BYTES_MAX
        )
        return await self._exchange_on(_Connection(reader, writer), request)

    async def _exchange_on(self, connection: _Connection, request: bytes) -> tuple[int, bytes]:
        try:
            answer = await connection.exchange(request)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)
        return answer

    def _head(self, length: int) -> bytes:
        if self._authorization is None:
            self._authorization = self._credentials()
        return (
            f"POST {self._path} HTTP/1.1\r\nHost: {self.address}\r\n"
            f"Authorization: Basic {self._authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _credentials(self) -> str:
        text = f"{self._user}:{self._password}"
        if self._cookie is not None:
            try:
                text = self._cookie.expanduser().read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                detail = getattr(error, "strerror", None) or "it is no text"
                raise RpcUnauthorized(
                    f"rpc_cookie: {self._cookie} can't be read: {detail}; is the node running, and "
                    "may this user read its data directory?"
                ) from None
        return base64.b64encode(text.encode()).decode()

    def _check_status(self, status: int, body: bytes, method: str) -> None:
        if status == 401:
            self._authorization = None
            key = "rpc_cookie" if self._cookie is not None else "rpc_user, rpc_password"
            raise RpcUnauthorized(f"{self.address} refuses the credentials; check {key}")
        if status == 403:
            raise RpcUnauthorized(
                f"{self.address} refuses this host or {method}; check the node's rpcallowip and "
                "rpcwhitelist"
            )
        if status == 503:
            raise FeedError(f"{method}: {self.address} is overloaded; raise its -rpcworkqueue")
        # Core answers errors of a single call with 404 and 500, and says more in the body.
        if status != 200 and not body.startswith((b"{", b"[")):
            raise FeedError(
                f"{method}: {self.address} answered HTTP {status}; is this a node's RPC port?"
            )


def _decode(body: bytes, kind: Any, method: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise FeedError(f"{method}: the answer is no JSON-RPC: {error}") from None


def _refusal(method: str, error: dict[str, Any]) -> RpcError:
    return RpcError(method, int(error.get("code", 0)), str(error.get("message", "")))


def _check_length(length: int) -> None:
    if not 0 <= length <= ANSWER_BYTES_MAX:
        raise FeedError(f"an answer of {length} bytes is over the bound of {ANSWER_BYTES_MAX}")
