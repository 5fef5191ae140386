"""The RPC client survives restarts, refusals and nonsense, and says what to do about each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rpc_server import RpcFailure, RpcServer

from bitcoin_sprint.errors import ConfigError, FeedError, FeedTimeout
from bitcoin_sprint.ingest import rpc
from bitcoin_sprint.ingest.rpc import RpcClient, RpcError, RpcUnauthorized

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def echo(method: str, params: Sequence[Any]) -> Any:
    if method == "refuse":
        raise RpcFailure(-5, "Block not found")
    return [method, *params]


@pytest.fixture
async def server() -> AsyncIterator[RpcServer]:
    async with RpcServer(echo) as server:
        yield server


def client_of(server: RpcServer, **options: Any) -> RpcClient:
    return RpcClient(server.url, user="user", password="password", **options)


async def test_a_call_gives_the_result_and_keeps_its_connection(server: RpcServer) -> None:
    client = client_of(server)
    for number in range(5):
        assert await client.call("echo", number, "text") == ["echo", number, "text"]
    assert server.connections_count == 1
    client.close()


async def test_a_refusal_carries_the_nodes_code(server: RpcServer) -> None:
    client = client_of(server)
    with pytest.raises(RpcError, match=r"refuse: Block not found \(-5\)") as refused:
        await client.call("refuse")
    assert refused.value.code == RpcError.NOT_FOUND
    server.status = 500  # as JSON-RPC 1.0 has it
    with pytest.raises(RpcError):
        await client.call("refuse")
    client.close()


async def test_a_batch_keeps_its_order_and_has_refusals_in_place(
    server: RpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "BATCH_MAX", 10)
    client = client_of(server)
    results = await client.batch("echo", [[number] for number in range(25)])
    assert results == [["echo", number] for number in range(25)]
    assert server.requests_count == 3
    (refused,) = await client.batch("refuse", [[]])
    assert isinstance(refused, RpcError)
    assert await client.batch("echo", []) == []
    client.close()


async def test_calls_overlap_up_to_the_bound(server: RpcServer) -> None:
    client = client_of(server, connections_max=3)
    await asyncio.gather(*(client.call("echo") for _ in range(20)))
    assert server.connections_count <= 3
    client.close()


async def test_a_connection_that_the_node_closed_is_replaced(server: RpcServer) -> None:
    server.closes = True
    client = client_of(server)
    for _ in range(3):
        assert await client.call("echo") == ["echo"]
    assert server.connections_count == 3
    client.close()


async def test_the_cookie_is_read_again_after_a_restart(server: RpcServer, tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    cookie.write_text("user:password\n")
    client = RpcClient(server.url, cookie=cookie)
    await client.call("echo")
    server.credentials = "user:another"
    cookie.write_text("user:another")
    assert await client.call("echo") == ["echo"]
    client.close()


async def test_a_missing_cookie_is_named(server: RpcServer, tmp_path: Path) -> None:
    client = RpcClient(server.url, cookie=tmp_path / ".cookie")
    with pytest.raises(RpcUnauthorized, match=r"rpc_cookie: .*No such file.*is the node running"):
        await client.call("echo")


async def test_wrong_credentials_are_told(server: RpcServer, tmp_path: Path) -> None:
    with pytest.raises(RpcUnauthorized, match="refuses the credentials; check rpc_user"):
        await RpcClient(server.url, user="user", password="wrong").call("echo")
    cookie = tmp_path / ".cookie"
    cookie.write_text("wrong:cookie")
    with pytest.raises(RpcUnauthorized, match="check rpc_cookie"):
        await RpcClient(server.url, cookie=cookie).call("echo")


async def test_credentials_in_the_url_will_do(server: RpcServer) -> None:
    client = RpcClient(f"http://user:password@127.0.0.1:{server.port}/")
    assert await client.call("echo") == ["echo"]
    client.close()


async def test_a_chunked_answer_is_read(server: RpcServer) -> None:
    server.is_chunked = True
    client = client_of(server)
    assert await client.call("echo", "x" * 10_000) == ["echo", "x" * 10_000]
    assert await client.call("echo") == ["echo"]
    assert server.connections_count == 1
    client.close()


async def test_an_answer_without_a_length_ends_with_the_connection(server: RpcServer) -> None:
    server.raw_answer = b'HTTP/1.0 200 OK\r\n\r\n{"id":0,"result":7}'
    server.closes = True
    client = client_of(server)
    assert await client.call("echo") == 7
    assert await client.call("echo") == 7
    client.close()


async def test_a_node_that_does_not_answer_costs_a_bounded_time(server: RpcServer) -> None:
    server.is_stalled = True
    client = client_of(server, timeout_seconds=0.05)
    with pytest.raises(FeedTimeout, match=r"echo: 127.0.0.1:\d+ did not answer within 0.05 s"):
        await client.call("echo")
    server.is_stalled = False
    assert await client.call("echo") == ["echo"]
    client.close()


async def test_nobody_there_says_what_to_look_at(server: RpcServer) -> None:
    client = client_of(server)
    await server.stop()
    with pytest.raises(FeedError, match=r"can't be reached: .*is the node running, and is rpc_url"):
        await client.call("echo")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "this is no HTTP server: it answered b'SSH"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "the answer is no JSON-RPC"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n", "content-length is 'five'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", "over the bound"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "over the bound"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, "more than 100 header lines"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 100_000, "answers no HTTP"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "rpcallowip"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "raise its -rpcworkqueue"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "answered HTTP 302; is this a node"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "a chunk's length is b'xyz",
        ),
    ],
)
async def test_nonsense_is_an_error_that_names_it(
    server: RpcServer, answer: bytes, message: str
) -> None:
    server.raw_answer = answer
    client = client_of(server, timeout_seconds=5)
    with pytest.raises(FeedError, match=message):
        await client.call("echo")
    client.close()


async def test_a_batch_answered_in_part_is_an_error(server: RpcServer) -> None:
    server.raw_answer = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n[{"id":0,"result":7}]'
    client = client_of(server)
    with pytest.raises(FeedError, match="answered 1 of 2 calls"):
        await client.batch("echo", [[], []])
    client.close()


@pytest.mark.parametrize("url", ["127.0.0.1:8332", "ftp://host", "http://host:99999", "http://"])
async def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="rpc_url"):
        RpcClient(url)
