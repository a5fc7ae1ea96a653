"""The service behind the HTTP interface: from a checked request to the pieces of its answer."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.steering.errors import CannotPack, SteeringError
from trimtab.steering.governing.governor import Governor
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import Decoding
from trimtab.tasks.home import Home
from trimtab.tasks.plans.steer import SteerSettings
from trimtab.tasks.serving.answer import Choice, Piece, Wanted
from trimtab.tasks.serving.lanes import BodyThread, Row, packable, started
from trimtab.tasks.serving.measuring import Finished, Measuring
from trimtab.tasks.serving.metrics import Metrics
from trimtab.tasks.serving.plans import Plans, Resolved
from trimtab.tasks.serving.settings import Refused, Serving

T = TypeVar("T")
LOGITS_ROOM = 2**26  # bytes of steered logits that an answer may hold until its nats are measured


@dataclass(frozen=True)
class Job:
    """What is to be answered. decoding: of the first choice. n: choices of each prompt. stops, tops: as in Wanted.
    nats: measure what was spent."""

    prompts: Sequence[Tokens]
    steering: Resolved
    decoding: Decoding
    n: int = 1
    stops: tuple[str, ...] = ()
    tops: int | None = None
    nats: bool = True


@dataclass
class RunningAnswer:
    """An answer while it is written. steering: what steers it, with a dosed strength once that is there. dosed: that
    strength (None: no KL was asked for)."""

    job: Job
    steering: Resolved
    rows: list[Row] = field(default_factory=list)
    dosed: float | None = None

    @property
    def choices(self) -> list[Choice]:
        return [choice for _, choice in self.rows]

    @property
    def measured(self) -> bool:
        """Whether the nats of every token are there."""
        return all(len(choice.nats) >= len(choice.ids) for choice in self.choices)


class Service:
    """One model, its lanes, and the plans of one home. `start` before the first answer, `stop` after the last."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, home: Home, serving: Serving):
        self.model, self.tokenizer, self.serving = model, tokenizer, serving
        self.anatomy = Anatomy.of(model)
        self.plans = Plans(home, serving, lambda plan: plan.check(self.anatomy))
        self.metrics = Metrics()
        self._static, self._nats, self._dosing = (BodyThread(model, name) for name in ("static", "nats", "dose"))
        self._measuring = Measuring(self._nats)
        self._continuous = started(model)
        self._slots = asyncio.Semaphore(serving.limits.running)
        self._waiting = 0
        self._doses: dict[object, float] = {}
        self.closing = False

    @property
    def fault(self) -> str | None:
        """Why nothing can be answered; None when all is well."""
        return None if self._continuous is None else self._continuous.stopped

    def stop(self) -> None:
        """End the lanes, after what they run."""
        self.closing = True
        for bench in (self._static, self._nats, self._dosing):
            bench.thread.shutdown(wait=False, cancel_futures=True)
        if self._continuous is not None:
            self._continuous.stop()

    def check_length(self, prompts: Sequence[Tokens], answer: int | None) -> int:
        """Tokens that the answer may have. Raises Refused when prompt and answer do not fit the model or its cache."""
        longest, limits = max(map(len, prompts)), self.serving.limits
        room = [size for size in (self.anatomy.max_tokens, self._capacity) if size is not None]
        left = min(room, default=longest + limits.tokens) - longest
        if left < 1 or (answer or 1) > left:
            raise Refused(f"a prompt of {longest} tokens leaves room for {max(left, 0)}, and {answer or 1} are wanted")
        if answer is not None and answer > limits.tokens:
            raise Refused(f"{answer} tokens are wanted; this server writes at most {limits.tokens} an answer")
        return min(answer or limits.tokens, left)

    @property
    def _capacity(self) -> int | None:
        return None if self._continuous is None else self._continuous.engine.capacity

    @contextlib.asynccontextmanager
    async def answering(self, job: Job) -> AsyncIterator[tuple[RunningAnswer, AsyncIterator[Piece]]]:
        """The answer and its pieces as they come; leaving the block frees everything, finished or not. Raises Refused
        when there is no room, no engine, or no strength that costs what was asked."""
        async with self._slot():
            answer = RunningAnswer(job, job.steering)
            pieces: asyncio.Queue[Piece] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def tell(piece: Piece) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)

            if job.steering.request.kl is not None:
                await self._dose(answer)
            answer.rows = self._rows(job, tell)
            requests: list[str] = []
            try:
                requests = await self._begin(answer)
                yield answer, self._pieces(answer, pieces)
            finally:
                for choice in answer.choices:
                    choice.close()
                if self._continuous is not None:
                    self._continuous.cancel(requests)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """A turn. Raises Refused when too many wait already."""
        if self.closing or self.fault:
            raise Refused(self.fault or "the server is shutting down", 503, "server_error")
        if self._slots.locked() and self._waiting >= self.serving.limits.waiting:
            raise Refused(f"{self._waiting} requests wait already; try again later", 429, "rate_limit_error")
        self._waiting += 1
        self.metrics.waiting.inc()
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
            self.metrics.waiting.dec()
        self.metrics.running.inc()
        try:
            yield
        finally:
            self._slots.release()
            self.metrics.running.dec()

    def _rows(self, job: Job, tell: Callable[[Piece], None]) -> list[Row]:
        rows: list[Row] = []
        ends = frozenset(self.anatomy.end_tokens)
        for prompt in job.prompts:
            for k in range(job.n):
                base = job.decoding
                own = Decoding(base.max_new_tokens, base.temperature, base.seed + k, base.top_k, base.top_p)
                room = LOGITS_ROOM // job.n if job.nats and job.steering.plan is not None else 0
                wanted = Wanted(len(rows), own, job.stops, job.tops, ends, room)
                rows.append((prompt, Choice(self.tokenizer, wanted, tell)))
        return rows

    async def _begin(self, answer: RunningAnswer) -> list[str]:
        steering, plan = answer.steering.request, answer.steering.plan
        if self._continuous is not None and not steering.governed and packable(plan):
            try:
                return await asyncio.to_thread(self._continuous.add, answer.rows, plan)
            except CannotPack as error:
                raise Refused(str(error), 503, "server_error") from None
            except SteeringError as error:
                raise Refused(str(error)) from None
        governor = None
        if steering.governed:
            governor = Governor(float("inf") if steering.govern is None else steering.govern, steering.govern_total)
        self._static.thread.submit(self._static.write, answer.rows, plan or SteeringPlan(()), governor)
        return []

    async def _pieces(self, answer: RunningAnswer, pieces: "asyncio.Queue[Piece]") -> AsyncIterator[Piece]:
        """Until every choice has ended. Raises Refused when one fails or the time is over."""
        open_choices, began = len(answer.rows), time.monotonic()
        while open_choices:
            left = self.serving.limits.seconds - (time.monotonic() - began)
            try:
                piece = await asyncio.wait_for(pieces.get(), max(left, 0.001))
            except TimeoutError:
                raise Refused(f"no answer within {self.serving.limits.seconds:g} s", 504, "timeout") from None
            if piece.failure is not None:
                raise Refused(piece.failure, 500, "server_error")
            open_choices -= piece.finish is not None
            yield piece

    async def measure(self, answer: RunningAnswer) -> None:
        """Nats of every token of a finished answer, where they were asked for and something steered."""
        plan, job = answer.steering.plan, answer.job
        if plan is None or not job.nats or answer.measured:
            return
        await self._in_time(self._measuring.submit(Finished(answer.rows, plan, job.decoding.sampling)))

    async def _in_time(self, work: Future[T]) -> T:
        """Its result. Raises Refused when the time is over; what has begun goes on unseen."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self.serving.limits.seconds)
        except TimeoutError:
            raise Refused(f"not measured within {self.serving.limits.seconds:g} s", 504, "timeout") from None

    async def _dose(self, answer: RunningAnswer) -> None:
        """Scale the plan to the KL that was asked for, on these very prompts."""
        job, kl = answer.job, answer.job.steering.request.kl
        prompts = tuple(prompt.ids.tobytes() for prompt in job.prompts)
        key = (job.steering.label, job.steering.digests, kl, job.decoding.sampling, prompts)
        plan = job.steering.plan
        if key not in self._doses and plan is not None:
            settings = SteerSettings(kl=kl, max_new_tokens=32, temperature=job.decoding.temperature)
            work = (plan, list(job.prompts), settings)
            try:
                self._doses[key] = await self._in_time(self._dosing.thread.submit(self._dosing.dose, *work))
            except SteeringError as error:
                raise Refused(str(error)) from None
            while len(self._doses) > 1024:
                self._doses.pop(next(iter(self._doses)))
        answer.dosed = self._doses[key]
        answer.steering = job.steering.scaled(answer.dosed)


def fresh_seed() -> int:
    """For a request that names none; the answer tells it."""
    return secrets.randbelow(2**31)
