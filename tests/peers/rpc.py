"""JSON-RPC over plain HTTP, as Bitcoin Core and its relatives speak it."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any


class RpcError(Exception):
    """The node's own answer that a call failed: ``code`` and ``message`` as it gave them."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message


def call(port: int, credentials: str, method: str, params: tuple[Any, ...], timeout: float) -> Any:
    """One call on a connection of its own; ``credentials`` is ``user:password``.

    Raises RpcError for the node's refusal and OSError where nobody answers.
    """
    body = json.dumps({"id": 0, "method": method, "params": params})
    token = base64.b64encode(credentials.encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/", body, headers)
        text = connection.getresponse().read()
    except http.client.HTTPException as error:
        raise OSError(f"{method}: no answer: {error!r}") from error
    finally:
        connection.close()
    if not text:
        raise OSError(f"{method}: an empty answer; wrong credentials?")
    answer = json.loads(text)
    if refusal := answer.get("error"):
        raise RpcError(method, refusal["code"], refusal["message"])
    return answer["result"]
