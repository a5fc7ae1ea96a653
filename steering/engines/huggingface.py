"""huggingface: transformers' continuous batching with a plan for each request.

Requests join and leave a running batch; every pass packs what each of them has to run, prompts and single tokens alike.
Which tokens are whose is read from the batch that transformers prepared. Blocks of its paged cache are never shared
between requests: it knows them by their tokens alone, so an unsteered request would continue what a steered one wrote.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation import GenerationMode

from trimtab.steering.engines.packing import AnatomyHost, Packing
from trimtab.steering.engines.writing import Writer, Writers
from trimtab.steering.errors import CannotPack, UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import passes_watched
from trimtab.steering.model.packed import Segment
from trimtab.steering.plans.plan import SteeringPlan

PAGE, PASS_TOKENS = 32, 512
PROOF = ((3, 1, 4, 1, 5), (2, 7))  # token ids that every vocabulary has
WAIT = 0.05  # seconds between looks at whether the engine still runs


@dataclass(frozen=True)
class EngineSettings:
    """page: tokens of one page of the cache. pages: in the cache (None: as many as memory allows). pass_tokens: most
    tokens of one pass; longer prompts run in chunks. seed: of sampling."""

    page: int = PAGE
    pages: int | None = 1024
    pass_tokens: int = PASS_TOKENS
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """What one request got. ids: the tokens written. error: why there are none, or no more."""

    request: str
    ids: tuple[int, ...]
    error: str | None = None


class SteeredBatching:
    """Continuous batching of one model while a block runs: `with SteeredBatching(model).running() as engine`."""

    def __init__(self, model: PreTrainedModel, settings: EngineSettings = EngineSettings()):
        self._model: Any = model  # generate and continuous batching are mixed in, unseen by type checkers
        self._settings = settings
        self._anatomy = Anatomy.of(model)
        self._packing = Packing(AnatomyHost(self._anatomy))
        self._manager: Any = None
        self._writers = Writers(self.cancel, self._packing.overflown)
        self._numbers = itertools.count()
        self._finished: dict[str, Answer] = {}
        self._proved = self._greedy = False

    @property
    def capacity(self) -> int | None:
        """Tokens that the longest request may have, prompt and answer; None when memory alone limits them."""
        pages = self._settings.pages
        return None if pages is None else max(pages * 3 // 4 * self._settings.page, self._settings.page)

    @contextmanager
    def running(self, generation: GenerationConfig | None = None) -> Iterator["SteeredBatching"]:
        """Requests are taken and answered while the block runs; when it ends, it waits for those that are not done."""
        self._prove()
        with self._started(generation or self._model.generation_config):
            yield self

    @contextmanager
    def _started(self, config: GenerationConfig) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._packing.attached())
            stack.enter_context(passes_watched(self._anatomy, self._begin))
            manager = self._model.init_continuous_batching(
                generation_config=config, continuous_batching_config=self._batching()
            )
            stack.callback(manager.destroy)
            stack.callback(manager.stop, block=True, keep_for_next_session=False)
            self._manager = manager
            self._greedy = config.get_generation_mode() is GenerationMode.GREEDY_SEARCH
            if self._greedy:
                manager.logit_processor = self._writers  # a writer chooses for each request
            manager.start()
            yield

    def _prove(self) -> None:
        """Two prompts, unsteered, must get the answers that the model writes alone: transformers batches some families
        wrongly or not at all. Raises UnsupportedModel."""
        if self._proved:
            return
        greedy = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0)
        alone = [_answer(self._model, prompt, greedy) for prompt in PROOF]
        with self._started(greedy):
            requests = [self.add(prompt, max_new_tokens=3) for prompt in PROOF]
            answers = self.answers(requests)
        for request, expected in zip(requests, alone, strict=True):
            answer = answers[request]
            if answer.error or answer.ids != expected[: len(answer.ids)] or not answer.ids:
                raise UnsupportedModel(
                    f"transformers' continuous batching does not run '{self._model.config.model_type}' as the model "
                    f"itself runs: {answer.error or f'{list(answer.ids)} instead of {list(expected)}'}. Use "
                    f"model.generate on padded batches with plan.on or steer_rows"
                )
        self._proved = True

    def add(
        self,
        prompt: Sequence[int],
        plan: SteeringPlan | None = None,
        max_new_tokens: int = 20,
        writer: Writer | None = None,
    ) -> str:
        """Queue a prompt's token ids; its id comes back. `running` says how requests without a writer are sampled.

        writer: chooses the request's tokens and ends it; such a request has no `Answer`. Its engine runs greedily.
        Raises CannotPack, BadPlan or BadSite when the plan cannot act here, before anything is queued."""
        if writer is not None and not self._greedy:
            raise CannotPack("the engine samples all requests alike, so a writer cannot choose; run it greedily")
        request = f"request-{next(self._numbers)}"
        if plan is not None:
            self._admit(plan)
            self._packing.steer(request, plan)
        if writer is not None:
            self._writers[request] = writer
        queued = self._manager.add_request(list(prompt), request_id=request, max_new_tokens=max_new_tokens)
        if queued is None:
            self._forget(request)
            raise CannotPack("the engine takes no more requests: it has stopped or is about to")
        return request

    def cancel(self, request: str) -> None:
        """Nobody waits for this answer any more; it never comes."""
        self._manager.cancel_request(request)
        self._forget(request)

    def _forget(self, request: str) -> Writer | None:
        self._packing.forget(request)
        return self._writers.pop(request)

    def answers(self, requests: Sequence[str]) -> dict[str, Answer]:
        """Wait for all of these; each is given once. Answers to others that come meanwhile are held for their turn.

        Raises CannotPack when the engine stopped."""
        while not set(requests) <= set(self._finished):
            answer = self.next_answer()
            if answer is not None:
                self._finished[answer.request] = answer
        return {request: self._finished.pop(request) for request in requests}

    def next_answer(self) -> Answer | None:
        """The next answer; None when none came for a moment. Raises CannotPack when the engine stopped."""
        output = self._manager.get_result(timeout=WAIT)
        if output is None:
            fatal = self._manager.background_thread_status.fatal_error
            if fatal is not None or not self._manager.is_running():
                reason = f"the engine stopped: {fatal or 'it no longer runs'}"
                self._writers.fail_all(reason)
                raise CannotPack(reason)
            return None
        writer = self._forget(output.request_id)
        if writer is not None:
            writer.fail(output.error or "the engine ended the answer before its writer did")
            return None
        return Answer(output.request_id, tuple(output.generated_tokens), output.error)

    def _admit(self, plan: SteeringPlan) -> None:
        if not self._packing.needs_hooks(plan):
            self._packing.admit(plan)
            return
        with self._manager.pause():  # hooks change between passes only
            self._packing.admit(plan)

    def _begin(self, arguments: Mapping[str, Any]) -> None:
        """The engine is about to run a pass: say whose tokens it holds."""
        if arguments.get("cu_seq_lens_q") is None:
            raise CannotPack(
                "a pass that is not packed ran while the engine runs this model: call the model when the engine has "
                "ended (a family whose passes do not say how they are packed cannot be batched continuously)"
            )
        ends = arguments["cu_seq_lens_q"].tolist()
        positions = arguments["position_ids"][0]
        tokens = arguments["input_ids"].shape[1]
        segments, writing = [], []
        for k, scheduled in enumerate(self._manager.batch_processor.inputs_and_outputs.requests_in_batch):
            state, start, end = scheduled.state, ends[k], ends[k + 1]
            prompt = state._true_initial_tokens or len(state.initial_tokens)
            segments.append(Segment(state.request_id, end - start, int(positions[start]), prompt))
            if scheduled.has_new_token:
                writing.append(state.request_id)
        self._writers.rows = writing
        self._packing.begin(segments, tokens, positions.device)

    def _batching(self) -> ContinuousBatchingConfig:
        settings = self._settings
        return ContinuousBatchingConfig(
            page_size=settings.page,
            num_blocks=settings.pages,
            max_batch_tokens=settings.pass_tokens,
            seed=settings.seed,
            allow_block_sharing=False,  # blocks are known by their tokens, not by the plan that wrote them
            use_cuda_graph=False,  # a replayed graph runs no hook
            use_async_batching=False,  # the batch that is prepared must be the one that runs
        )


def _answer(model: Any, prompt: Sequence[int], config: GenerationConfig) -> tuple[int, ...]:
    ids = torch.tensor([list(prompt)], device=model.device)
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(answer[0, len(prompt) :].tolist())
