"""Lanes: the ways in which an answer is written, each on a body of its own over the same weights.

continuous: transformers' continuous batching, any mixture of requests and plans. static: a batch of one request's
choices, for what continuous batching cannot do: a governor, and gates that read the prompt before it is steered.
Beside them, nats are measured on finished answers, and strengths are dosed.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from trimtab.steering.engines.bodies import another_body
from trimtab.steering.engines.huggingface import EngineSettings, SteeredBatching
from trimtab.steering.engines.packing import check_packable
from trimtab.steering.errors import CannotPack, UnsupportedModel
from trimtab.steering.governing.governor import Governor, Ledger
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.writing import decode
from trimtab.tasks.plans.steer import SteerSettings, dosed_strength
from trimtab.tasks.serving.answer import Choice

Row = tuple[Tokens, Choice]
SPARE = 8  # tokens that an engine's request may have beyond its limit, so that the choice ends it and not the engine


class Continuous:
    """The continuous lane. Raises UnsupportedModel in `start` for a family that transformers batches wrongly."""

    def __init__(self, model: PreTrainedModel, settings: EngineSettings | None = None):
        self.engine = SteeredBatching(model, settings or EngineSettings())
        self._stack = ExitStack()
        self._listening: threading.Thread | None = None
        self.stopped: str | None = "it has not started"

    def start(self) -> None:
        """Prove the engine and take requests."""
        greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        self._stack.enter_context(self.engine.running(greedy))
        self.stopped = None
        self._listening = threading.Thread(target=self._listen, name="engine", daemon=True)
        self._listening.start()

    def stop(self) -> None:
        """Wait for what runs, then end."""
        self.stopped = self.stopped or "it is shutting down"
        self._stack.close()

    def add(self, rows: Sequence[Row], plan: SteeringPlan | None) -> list[str]:
        """Queue each row; ids for `cancel` come back. Raises CannotPack when the engine has stopped."""
        if self.stopped is not None:
            raise CannotPack(f"the engine takes no requests: {self.stopped}")
        return [
            self.engine.add(prompt.ids.tolist(), plan, choice.wanted.decoding.max_new_tokens + SPARE, choice)
            for prompt, choice in rows
        ]

    def cancel(self, requests: Sequence[str]) -> None:
        """Free what they hold."""
        for request in requests:
            self.engine.cancel(request)

    def _listen(self) -> None:
        """Wait for news that the engine stopped; it then tells every choice."""
        try:
            while self.stopped is None:
                self.engine.next_answer()
        except CannotPack as error:
            self.stopped = self.stopped or str(error)


def packable(plan: SteeringPlan | None) -> bool:
    """Whether the continuous lane can steer by this plan."""
    try:
        check_packable(plan or SteeringPlan(()))
    except CannotPack:
        return False
    return True


class BodyThread:
    """One body with one thread: static batches, measurements or dosing, one job at a time."""

    def __init__(self, model: PreTrainedModel, name: str):
        self.body = another_body(model)
        Anatomy.of(self.body)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def write(self, rows: Sequence[Row], plan: SteeringPlan, governor: Governor | None) -> None:
        """Write the choices of all rows in one batch."""
        limit = max(choice.wanted.decoding.max_new_tokens for _, choice in rows)
        prompts = [prompt for prompt, _ in rows]
        lengths = [len(prompt) for prompt in prompts]
        try:
            with torch.inference_mode(), plan.on(self.body, prompt_lengths=lengths, govern=governor) as session:
                decode(self.body, prompts, _StaticDraw([choice for _, choice in rows], session.ledger), limit)  # type: ignore[arg-type]
        except _AllEnded:
            pass
        except Exception as error:
            for _, choice in rows:
                choice.fail(f"{type(error).__name__}: {error}")

    def dose(self, plan: SteeringPlan, prompts: Sequence[Tokens], settings: SteerSettings) -> float:
        """The strength at which the plan costs `settings.kl` on these prompts. Raises SteeringError when none does."""
        return dosed_strength(self.body, plan, prompts, settings)


class _AllEnded(Exception):
    """Every row of a static batch has ended."""


class _StaticDraw:
    """Draws for `decode`: each row by its own choice."""

    def __init__(self, choices: Sequence[Choice], ledger: Ledger | None):
        self._choices, self._ledger = choices, ledger
        self.processors: LogitsProcessorList = choices[0].processors  # all are of one request

    def __call__(self, scores: Tensor) -> Tensor:
        if all(choice.finish for choice in self._choices):
            raise _AllEnded
        entry = None if self._ledger is None else self._ledger.entries[-1]
        tokens = []
        for k, choice in enumerate(self._choices):
            if entry is not None:
                choice.pay(float(entry.spent[k]), bool(entry.acted[k]))
            token = choice.draw(scores[k])
            tokens.append(min(choice.wanted.ends, default=0) if token is None else token)
        return torch.tensor(tokens)


def started(model: PreTrainedModel) -> Continuous | None:
    """The continuous lane, running; None for a family that transformers cannot batch continuously."""
    lane = Continuous(model)
    try:
        lane.start()
    except UnsupportedModel:
        return None
    return lane
