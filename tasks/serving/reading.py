"""From the bytes of a request to a Job, or to a Refused that says in one line what is wrong."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from trimtab.steering.engines.expression import Steering
from trimtab.steering.errors import SteeringError
from trimtab.steering.model.tokens import PromptFormat, Tokens, tokenize
from trimtab.steering.running.writing import Decoding
from trimtab.tasks.serving.schema import ChatRequest, CompletionRequest, Request
from trimtab.tasks.serving.service import Job, Service, fresh_seed
from trimtab.tasks.serving.settings import Refused

R = TypeVar("R", bound=Request)


def read(body: bytes, kind: type[R]) -> R:
    """The request in a body. Raises Refused."""
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(values, dict):
        raise Refused("the body is no JSON object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Refused("; ".join(_line(problem) for problem in error.errors()[:3])) from None
    except RecursionError:
        raise Refused("the body is nested too deeply") from None


def job_of(service: Service, request: ChatRequest | CompletionRequest) -> Job:
    """What is to be done for a request. Raises Refused."""
    limits = service.serving.limits
    try:
        prompts = _prompts(service, request)
        steering = Steering.parse(_steering(service, request))
    except SteeringError as error:
        raise Refused(str(error)) from None
    if request.n * len(prompts) > limits.choices:
        raise Refused(f"{request.n * len(prompts)} choices are wanted; at most {limits.choices} a request are written")
    most = service.check_length(prompts, request.most_tokens)
    seed = fresh_seed() if request.seed is None else request.seed
    decoding = Decoding(most, request.temperature, seed, request.top_k, request.top_p)
    nats = service.serving.nats if request.nats is None else request.nats
    resolved = service.plans.resolve(steering)
    return Job(prompts, resolved, decoding, request.n, tuple(request.stop), request.tops, nats)


def _steering(service: Service, request: Request) -> Any:
    """The steering asked for: the field, or a plan that stands in the place of the model's name."""
    name = request.model or service.serving.name
    if name in (service.serving.name, "default"):
        return request.steering
    if name not in service.plans.listed():
        raise Refused(f"there is no model '{name[:200]}'; `GET /v1/models` lists them", 404, "not_found_error")
    if request.steering is not None:
        raise Refused(f"model '{name}' is a plan and `steering` names another; give `model` or `steering`")
    return name


def _prompts(service: Service, request: ChatRequest | CompletionRequest) -> list[Tokens]:
    if isinstance(request, ChatRequest):
        turns = [message.turn for message in request.messages]
        _check_text(turn["content"] for turn in turns)
        return [tokenize(service.tokenizer, turns)]
    if not request.prompts or len(request.prompts) > service.serving.limits.choices:
        raise Refused(f"{len(request.prompts)} prompts; give 1 to {service.serving.limits.choices}")
    return [_completed(service, prompt) for prompt in request.prompts]


def _completed(service: Service, prompt: str | list[int]) -> Tokens:
    if isinstance(prompt, str):
        _check_text([prompt])
        return tokenize(service.tokenizer, prompt, form=PromptFormat(chat=False))
    size = service.anatomy.d_vocab
    if not prompt or not all(0 <= token < size for token in prompt):
        raise Refused(f"token ids must be 0 to {size - 1}, at least one")
    return Tokens.of_ids(prompt)


def _check_text(texts: Any) -> None:
    if any(0xD800 <= ord(character) < 0xE000 for text in texts for character in text):
        raise Refused("a text holds half a surrogate pair, which is no UTF-8")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _line(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))[:80]
    return f"{where or 'the body'}: {str(problem['msg'])[:200]}"


def listed(service: Service) -> Sequence[str]:
    """What `model` may be: the model itself and the plans."""
    return [service.serving.name, *service.plans.listed()]
