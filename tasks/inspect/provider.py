"""Provider: Inspect's messages answered by a steered model, with plan, price and governor in the log.

Answers are written by the service behind `trimtab serve`, in this process: samples that Inspect asks for at once run in
one batch, each as it would run alone. Providers of one model share its service, so steered and unsteered models stand
in one evaluation (`--model trimtab/smollm2,trimtab/smollm2@cheerful@prod`).
"""

import threading
import time
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from pydantic import ValidationError

from trimtab.steering.engines.expression import Steering
from trimtab.steering.errors import SteeringError
from trimtab.store import StoreError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.inspect.options import Options
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.sections import ModelSpec
from trimtab.tasks.serving.answer import Choice, TokenLogprob
from trimtab.tasks.serving.reading import job_of
from trimtab.tasks.serving.replies import spent, usage
from trimtab.tasks.serving.schema import ChatRequest
from trimtab.tasks.serving.service import RunningAnswer, Service
from trimtab.tasks.serving.settings import Limits, Refused, Serving

UNCONFIGURED = GenerateConfig()
AT_ONCE = 32  # samples that are answered together
LIMITS = Limits(tokens=2048, running=AT_ONCE, waiting=100_000, seconds=3600.0)
UNSERVED = ("frequency_penalty", "presence_penalty", "logit_bias", "best_of", "response_schema", "prompt_logprobs")
STOPS = {"stop": "stop", "length": "max_tokens"}


_SERVICES: dict[tuple[str, ...], Service] = {}


class Provider(ModelAPI):
    """One model under one steering; `-M` takes the fields of Options."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = UNCONFIGURED,
        **arguments: Any,  # Inspect hands every -M over by its own name
    ):
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            self._options = Options.of(model_name, arguments)
            self._key, self._service = _service_of(self._options)
            self._service.plans.resolve(Steering.parse(self._options.steering))
        except (Refused, RecipeError, SteeringError, StoreError, ValidationError) as error:
            raise PrerequisiteError(f"trimtab/{model_name}: {error}") from None

    async def generate(self, input: list[ChatMessage], tools: Any, tool_choice: Any, config: GenerateConfig) -> Any:
        """Answer a chat. Raises Refused for what cannot be served: tools, penalties, texts that are too long."""
        request, began = self._request(input, tools, config), time.monotonic()
        job = job_of(self._service, request)
        async with self._service.answering(job) as (answer, pieces):
            logprobs: list[list[TokenLogprob]] = [[] for _ in answer.rows]
            async for piece in pieces:
                logprobs[piece.choice] += piece.logprobs
            await self._service.measure(answer)
        return self._output(answer, logprobs, time.monotonic() - began)

    def max_connections(self) -> int:
        return AT_ONCE

    def connection_key(self) -> str:
        """Steered and unsteered providers of one model share its room."""
        return " ".join(self._key)

    def _request(self, messages: list[ChatMessage], tools: Any, config: GenerateConfig) -> ChatRequest:
        unserved = [name for name in UNSERVED if getattr(config, name) not in (None, 0)]
        if tools or unserved:
            raise Refused(f"{'tools' if tools else unserved[0]}: not served by trimtab; run the task without")
        others = sorted({part.type for message in messages for part in _parts(message)} - {"text", "reasoning"})
        if others:
            raise Refused(f"a message holds {others[0]}; trimtab serves text alone")
        try:
            return ChatRequest.model_validate(
                {
                    "messages": [{"role": message.role, "content": message.text} for message in messages],
                    "steering": self._options.steering,
                    "nats": self._options.nats,
                    "max_tokens": config.max_tokens,
                    "temperature": config.temperature,
                    "top_p": config.top_p,
                    "top_k": config.top_k,
                    "seed": config.seed,
                    "n": config.num_choices,
                    "stop": config.stop_seqs,
                    "logprobs": bool(config.logprobs),
                    "top_logprobs": config.top_logprobs or 0,
                }
            )
        except ValidationError as error:
            raise Refused(str(error)) from None

    def _output(self, answer: RunningAnswer, logprobs: list[list[TokenLogprob]], seconds: float) -> ModelOutput:
        counted = usage(answer)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(c, said) for c, said in zip(answer.choices, logprobs, strict=True)],
            usage=ModelUsage(
                input_tokens=counted["prompt_tokens"],
                output_tokens=counted["completion_tokens"],
                total_tokens=counted["total_tokens"],
            ),
            time=seconds,
            metadata={"trimtab": spent(answer)},
        )

    def _choice(self, choice: Choice, said: list[TokenLogprob]) -> ChatCompletionChoice:
        message = ChatMessageAssistant(content=choice.text, model=self.model_name, source="generate")
        logprobs = Logprobs(content=[_logprob(token) for token in said]) if said else None
        stop = STOPS.get(choice.finish or "", "unknown")
        return ChatCompletionChoice(message=message, stop_reason=stop, logprobs=logprobs)


def _parts(message: ChatMessage) -> list[Any]:
    return [] if isinstance(message.content, str) else list(message.content)


def _logprob(token: TokenLogprob) -> Logprob:
    tops = [TopLogprob(token=text, logprob=value) for text, value in token.tops]
    return Logprob(token=token.text, logprob=token.logprob, top_logprobs=tops or None)


def _service_of(options: Options) -> tuple[tuple[str, ...], Service]:
    """The service of a model and a home, made for the first provider that wants it and kept while the process runs."""
    home = Home.at(options.home)
    key = (options.model, options.revision or "", options.dtype, options.device, home.url)
    if key not in _SERVICES:
        model, tokenizer = model_of(ModelSpec.model_validate(options.source))
        _SERVICES[key] = service = Service(model, tokenizer, home, Serving(options.model, limits=LIMITS))
        threading.Thread(target=_stop_at_the_end, args=(service,)).start()
    return key, _SERVICES[key]


def _stop_at_the_end(service: Service) -> None:
    """Inspect does not tell every provider that it is done. Without this, Python would wait for the engine's threads
    when everything else has ended."""
    threading.main_thread().join()
    service.stop()
