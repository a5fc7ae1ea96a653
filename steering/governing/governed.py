"""governed: the governor's place in decoding, behind every logits processor.

`model.generate` makes a list of processors (penalties, bans, temperature, top-k, ...) and applies it to the logits of
each step. While a model is governed that list is one processor, `LastProcessor`: it runs the caller's processors on
the steered logits, copies of them on the base logits, and mixes what comes out. Our own loop (`running/writing.py`)
passes its processors through the same door.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation import GenerationMode

from trimtab.steering.errors import SilentNoOp, SteeringError
from trimtab.steering.governing.governor import Account
from trimtab.steering.model.generation import wrapped
from trimtab.steering.model.hooks import doubled

MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.ASSISTED_GENERATION)
_ACCOUNTS: "WeakKeyDictionary[nn.Module, Account]" = WeakKeyDictionary()


class LastProcessor(LogitsProcessor):
    """The only processor of a governed decoding. plain: the caller's. prompt: columns of text before the answer.
    ends: ids that end an answer, or None. calls: tokens asked for so far."""

    def __init__(self, plain: LogitsProcessorList, account: Account, prompt: int, ends: Tensor | None):
        self.plain, self._base = plain, twins(plain)
        self._account, self._prompt, self._ends = account, prompt, ends
        self.calls = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Tensor:
        self.calls += 1
        steered, base = self._halves(input_ids.shape[1])
        if not torch.equal(steered.to(scores).nan_to_num(), scores.nan_to_num()):
            raise SteeringError(
                "this way of decoding changes the logits before any processor sees them (as DoLa does), so a bound on "
                "what is sampled cannot be kept: decode greedily or by sampling, or do not govern"
            )
        base = self._base(input_ids, base.to(scores, copy=True))
        return self._account.settle(self.plain(input_ids, scores), base, input_ids.shape[1], self._open(input_ids))

    def _halves(self, length: int) -> tuple[Tensor, Tensor]:
        """Both rows' logits `[b v]` for the token after `length` columns. Only assisted decoding asks for more than
        the last position: a pass holds its candidates, and their columns say which."""
        halves = self._account.halves
        if halves is None:
            raise SteeringError("a governed answer needs a forward pass of the model before its first token")
        k = -1 - max(halves.columns - length, 0) if self._account.assisted else -1
        return halves.steered[:, k], halves.base[:, k]

    def _open(self, input_ids: Tensor) -> Tensor:
        """Rows whose answer has not ended."""
        if self._ends is None:
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return ~torch.isin(input_ids[:, self._prompt :], self._ends.to(input_ids.device)).any(1)


def twins(processors: LogitsProcessorList) -> LogitsProcessorList:
    """The same processors with a state of their own; models that they hold are shared."""
    memo: dict[int, Any] = {}
    for processor in processors:
        models = [value for value in getattr(processor, "__dict__", {}).values() if isinstance(value, nn.Module)]
        memo.update({id(model): model for model in models})
    try:
        return copy.deepcopy(processors, memo)
    except Exception as error:
        names = ", ".join(type(processor).__name__ for processor in processors)
        raise SteeringError(
            f"a logits processor cannot be copied ({error}), and the governor runs each of {names} on the steered and, "
            f"with a state of its own, on the base logits: give it a __deepcopy__, or do not govern"
        ) from error


@contextmanager
def governed(model: PreTrainedModel, account: Account) -> Iterator[None]:
    """While the block runs, whatever is sampled from `model` stays within the account's budgets.

    Raises SteeringError when the model is governed already, and for ways of decoding that cannot be bounded.
    """
    if model in _ACCOUNTS:
        raise SteeringError("the model is governed already: add the plans (`a + b`) and govern their sum once")
    door = _Door(model, account)
    with ExitStack() as stack:
        stack.callback(_ACCOUNTS.pop, model)
        _ACCOUNTS[model] = account
        stack.enter_context(doubled(model, account.combine))
        for name in ("generate", "_get_logits_processor", "_get_candidate_generator"):
            stack.enter_context(wrapped(model, name, getattr(door, name.removeprefix("_get_"))))
        yield


@contextmanager
def processors_of(
    model: nn.Module, plain: LogitsProcessorList, prompt: int, ends: Tensor | None
) -> Iterator[Callable[..., Tensor]]:
    """For a decoding loop of our own: `plain`, or when the model is governed, the last processor around it."""
    account = _ACCOUNTS.get(model)
    if account is None:
        yield plain
        return
    with account.sampling():
        yield LastProcessor(plain, account, prompt, ends)


class _Door:
    """What `generate` finds in place of three of the model's methods."""

    def __init__(self, model: PreTrainedModel, account: Account):
        self._model, self._account = model, account
        self._last: LastProcessor | None = None
        self._generating = False

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._generating, self._last = True, None
        try:
            with self._account.sampling(False):
                result = original(*args, **kwargs)
        finally:
            self._generating = False
        self._ended(result)
        return result

    def _ended(self, result: Any) -> None:
        if self._last is None:
            return
        if not self._last.calls:
            raise SilentNoOp("this way of decoding never asked its logits processors, so nothing was governed")
        sequences = getattr(result, "sequences", result)
        if isinstance(sequences, Tensor):
            self._account.kept(sequences.shape[1])

    def logits_processor(
        self, original: Callable[..., Any], generation_config: GenerationConfig, *args: Any, **kwargs: Any
    ) -> LogitsProcessorList:
        if not self._generating:
            raise SteeringError(
                "a governed model answers through `model.generate(...)` only: generate_batch and "
                "`GenerationMixin.generate(model, ...)` would not be bounded"
            )
        check_decoding(generation_config)
        plain = original(generation_config, *args, **kwargs)
        check_processors(plain, self._model)
        prompt = int(kwargs.get("input_ids_seq_length") or 0)
        self._last = LastProcessor(plain, self._account, prompt, getattr(generation_config, "_eos_token_tensor", None))
        self._account.sampled = True
        return LogitsProcessorList([self._last])

    def candidate_generator(self, original: Callable[..., Any], **kwargs: Any) -> Any:
        """Candidates are proposed by the caller's own processors, and cost nothing before they are accepted."""
        if kwargs["inputs_tensor"].ndim != 2:
            raise SteeringError("assisted decoding under a governor needs input_ids, not inputs_embeds")
        if kwargs.get("assistant_model") is self._model:
            raise SteeringError("a governed model cannot assist itself: give another, or prompt_lookup_num_tokens")
        self._account.assisted = True
        return original(**{**kwargs, "logits_processor": self._last.plain if self._last else None})


def check_decoding(config: GenerationConfig) -> None:
    """Raises SteeringError for a way of decoding that cannot be bounded."""
    mode = config.get_generation_mode()
    if mode not in MODES:
        raise SteeringError(
            f"a governed model cannot decode by {mode.value.replace('_', ' ')}: beams and the like choose between "
            f"whole texts and reorder the cache, which a bound per token does not cover; sample, or decode greedily"
        )
    for name, unset in (("guidance_scale", 1), ("assistant_ensemble_weight", None), ("assistant_early_exit", None)):
        if getattr(config, name, None) not in (None, unset):
            raise SteeringError(f"{name} is not governed: it mixes in distributions of its own; leave it out")


def check_processors(processors: LogitsProcessorList, model: nn.Module) -> None:
    """Raises SteeringError for a processor that runs the governed model itself."""
    for processor in processors:
        if any(value is model for value in getattr(processor, "__dict__", {}).values()):
            raise SteeringError(
                f"{type(processor).__name__} runs the governed model itself: its passes would be mixed too, and the "
                f"bound would say nothing; leave it out, or do not govern"
            )
