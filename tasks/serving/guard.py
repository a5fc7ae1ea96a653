"""Guards in front of every route: API keys, and the size of a body. Plain ASGI, so that nothing is read before."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from trimtab.tasks.serving.settings import Serving

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
OPEN = ("/", "/health", "/ready")  # paths that need no key


def error_body(message: str, kind: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients read it. Half surrogates, which a message may quote and UTF-8 lacks, are escaped."""
    said = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": said, "type": kind, "param": None, "code": status}}


class Guard:
    """Wraps an application. Refuses with 401 what has no key and with 413 what is too long."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], serving: Serving):
        self._app, self._serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN and not self._has_key(headers.get(b"authorization", b"")):
            await _refuse("no valid API key: send `Authorization: Bearer KEY`", 401, scope, receive, send)
            return
        body = await self._body(headers, receive)
        if body is None:
            text = f"the body is longer than {self._serving.limits.body} bytes"
            await _refuse(text, 413, scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _has_key(self, header: bytes) -> bool:
        keys = [f"Bearer {key}".encode() for key in self._serving.keys]
        return not keys or any([hmac.compare_digest(header, key) for key in keys])

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None when it is too long, at the first byte that is too many."""
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > self._serving.limits.body:
            return None
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._serving.limits.body:
                return None
            if message["type"] != "http.request" or not message.get("more_body"):
                return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replay() -> Scope:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(message: str, status: int, scope: Scope, receive: Receive, send: Send) -> None:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    await JSONResponse(error_body(message, kind, status), status)(scope, receive, send)
