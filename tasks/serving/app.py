"""The HTTP interface: OpenAI's chats, completions and models, health, metrics, and the page at `/`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from trimtab.tasks.serving.answer import Piece, TokenLogprob
from trimtab.tasks.serving.guard import Guard, error_body
from trimtab.tasks.serving.reading import job_of, listed, read
from trimtab.tasks.serving.replies import Shape, headers
from trimtab.tasks.serving.schema import ChatRequest, CompletionRequest
from trimtab.tasks.serving.service import Job, RunningAnswer, Service
from trimtab.tasks.serving.settings import Refused

PAGE = files("trimtab.tasks.serving").joinpath("data/page.html")
CLOSED = 499  # as nginx calls it: the client went away
T = TypeVar("T")


def app_of(service: Service) -> FastAPI:
    """The application for one service."""
    app = FastAPI(title="trimtab", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, serving=service.serving)
    app.add_exception_handler(Refused, _refused)
    _add_answers(app, service)
    _add_looks(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _counted(service, request, ChatRequest)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await _counted(service, request, CompletionRequest)


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> Any:
        names = await asyncio.to_thread(listed, service)
        return {"object": "list", "data": [{"id": n, "object": "model", "owned_by": "trimtab"} for n in names]}

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": service.fault or "ok"}, 503 if service.fault else 200)

    @app.get("/ready")
    async def ready() -> Response:
        wrong = service.fault or ("shutting down" if service.closing else None)
        return JSONResponse({"status": wrong or "ok"}, 503 if wrong else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"content-security-policy": policy})


async def _counted(service: Service, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
    """The reply; whatever it is, it is counted."""
    status = CLOSED
    try:
        response = await _reply(service, request, kind)
        status = response.status_code
        return response
    except Refused as error:
        status = error.status
        raise
    finally:
        service.metrics.requests.labels(request.url.path, str(status)).inc()


async def _reply(service: Service, http: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
    request = read(await http.body(), kind)
    job = await asyncio.to_thread(job_of, service, request)
    shape = Shape(kind is ChatRequest, request.model or service.serving.name)
    if request.stream:
        events = _events(service, job, shape, request.stream_options.include_usage)
        first = await _while_there(http, anext(events))  # what is refused is refused with its status
        return StreamingResponse(_lines(first, events), media_type="text/event-stream", headers=_named(job))
    answer, logprobs = await _while_there(http, _whole(service, job))
    return JSONResponse(shape.whole(answer, logprobs), headers=dict(headers(answer)))


async def _while_there(http: Request, work: Awaitable[T]) -> T:
    """The work's result; when the client goes away first, the work is cancelled. Raises Refused then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("the client went away", CLOSED)
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _whole(service: Service, job: Job) -> tuple[RunningAnswer, list[list[TokenLogprob]]]:
    async with service.answering(job) as (answer, pieces):
        logprobs: list[list[TokenLogprob]] = [[] for _ in answer.rows]
        async for piece in _timed(service, pieces):
            logprobs[piece.choice] += piece.logprobs
        await service.measure(answer)
        _count(service, answer)
        return answer, logprobs


async def _events(service: Service, job: Job, shape: Shape, usage: bool) -> AsyncIterator[dict[str, Any]]:
    async with service.answering(job) as (answer, pieces):
        if shape.chat:
            for choice in answer.choices:
                yield shape.opening(choice.wanted.choice)
        async for piece in _timed(service, pieces):
            yield shape.piece(piece.choice, piece.text, piece.logprobs, piece.finish)
        await service.measure(answer)
        _count(service, answer)
        yield shape.closing(answer, usage)


async def _lines(first: dict[str, Any], events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events. A stream that has begun tells what goes wrong in an event of its own."""
    try:
        yield _line(first)
        async for event in events:
            yield _line(event)
        yield "data: [DONE]\n\n"
    except Refused as error:
        yield _line(error_body(str(error), error.kind, error.status))
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


async def _timed(service: Service, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    began, first = time.monotonic(), True
    async for piece in pieces:
        if first:
            service.metrics.first.observe(time.monotonic() - began)
            first = False
        yield piece
    service.metrics.whole.observe(time.monotonic() - began)


def _count(service: Service, answer: RunningAnswer) -> None:
    metrics, label = service.metrics, answer.steering.request.expression or "none"
    label = label if all(term.factor == 1 for term in answer.steering.request.terms) else "sum"
    metrics.tokens.labels("prompt").inc(sum(map(len, answer.job.prompts)))
    for choice in answer.choices:
        metrics.tokens.labels("answer").inc(len(choice.ids))
        metrics.answers.labels(label, choice.finish or "closed").inc()
        metrics.nats.inc(max(sum(choice.nats), 0.0))
        metrics.acts.inc(choice.acted)


def _named(job: Job) -> dict[str, str]:
    """Headers of a stream: what is known before it begins."""
    steering = job.steering
    return {} if steering.plan is None else {"x-trimtab-steering": steering.label, "x-trimtab-digest": steering.digests}


async def _refused(request: Request, error: Exception) -> Response:
    refused = error if isinstance(error, Refused) else Refused(str(error), 500, "server_error")
    return JSONResponse(error_body(str(refused), refused.kind, refused.status), refused.status)
