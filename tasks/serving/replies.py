"""Answers as JSON, in the shapes of OpenAI's interface, with a field `trimtab`: what steered, how far, and its cost."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.tasks.serving.answer import Choice, TokenLogprob
from trimtab.tasks.serving.service import RunningAnswer


@dataclass(frozen=True)
class Shape:
    """chat: messages, or plain completions. model: as the request named it."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: RunningAnswer, logprobs: Sequence[Sequence[TokenLogprob]]) -> dict[str, Any]:
        """The answer in one object. logprobs: of each choice's tokens, empty where none were asked for."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._choice(choice, said) for choice, said in zip(answer.choices, logprobs, strict=True)]
        return {**self._head(kind), "choices": choices, "usage": usage(answer), "trimtab": spent(answer)}

    def _choice(self, choice: Choice, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        body = {"message": {"role": "assistant", "content": choice.text}} if self.chat else {"text": choice.text}
        return {"index": choice.wanted.choice, **body, "logprobs": self._logprobs(logprobs), **ended(choice.finish)}

    def piece(self, index: int, text: str, said: Sequence[TokenLogprob], finish: str | None) -> dict[str, Any]:
        """One event of a stream."""
        body: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        return self._event([{"index": index, **body, "logprobs": self._logprobs(said), **ended(finish)}])

    def opening(self, index: int) -> dict[str, Any]:
        """The first event of a chat's choice."""
        return self._event([{"index": index, "delta": {"role": "assistant", "content": ""}, **ended(None)}])

    def closing(self, answer: RunningAnswer, usage_wanted: bool) -> dict[str, Any]:
        """The last event: what was spent."""
        counted = {"usage": usage(answer)} if usage_wanted else {}
        return {**self._event([]), **counted, "trimtab": spent(answer)}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk" if self.chat else "text_completion"), "choices": choices}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, said: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not said:
            return None
        if not self.chat:
            return {
                "tokens": [token.text for token in said],
                "token_logprobs": [token.logprob for token in said],
                "top_logprobs": [dict(token.tops) for token in said],
            }
        return {
            "content": [
                {**_token(token.text, token.logprob), "top_logprobs": [_token(*top) for top in token.tops]}
                for token in said
            ]
        }


def ended(finish: str | None) -> dict[str, str | None]:
    """The field that says how a choice ended."""
    return {"finish_reason": finish}


def usage(answer: RunningAnswer) -> dict[str, int]:
    """Tokens of the prompts, each counted once, and of all choices."""
    prompt = sum(map(len, answer.job.prompts))
    written = sum(len(choice.ids) for choice in answer.choices)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def spent(answer: RunningAnswer) -> dict[str, Any]:
    """What steered, and what it cost. nats: of each choice, KL(steered || unsteered) at the tokens it wrote, at the
    temperature of sampling (1 when greedy); null when it was not measured."""
    steering = answer.steering
    plans = [{"ref": part.ref, "digest": part.digest, "strength": factor} for part, factor in steering.parts]
    told: dict[str, Any] = {"seed": answer.job.decoding.seed, "steering": steering.label or None, "plans": plans}
    if answer.dosed is not None:
        told["dosed_strength"] = answer.dosed
    if steering.plan is None or not answer.measured:
        return {**told, "nats": None}
    return {
        **told,
        "kl_temperature": answer.job.decoding.sampling.kl_temperature,
        "nats": [_nats(choice, steering.request.governed) for choice in answer.choices],
    }


def headers(answer: RunningAnswer) -> Mapping[str, str]:
    """The same in short."""
    steering = answer.steering
    if steering.plan is None:
        return {}
    told = {
        "x-trimtab-steering": steering.label,
        "x-trimtab-digest": steering.digests,
        "x-trimtab-strength": " ".join(f"{factor:g}" for _, factor in steering.parts),
    }
    if answer.measured and all(choice.finish for choice in answer.choices):
        told["x-trimtab-nats"] = " ".join(f"{sum(choice.nats):.6g}" for choice in answer.choices)
    return told


def _nats(choice: Choice, governed: bool) -> dict[str, Any]:
    nats = choice.nats[: len(choice.ids)]
    told = {"total": sum(nats), "per_token": nats, "tokens": choice.words}
    return {**told, "governor_acts": choice.acted} if governed else told


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
