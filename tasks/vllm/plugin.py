"""The entry point that vLLM calls in every process it starts (group `vllm.general_plugins`).

It wraps methods of vLLM's classes; none of its files changes. Where requests come in, their steering is pinned or
refused, and the prefix cache gets a salt; where the engine takes them over, their plans are loaded; where the model's
cache was made, the model is proved, and steered from then on.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.request import RequestStatus
from vllm.v1.worker.gpu_worker import Worker

from trimtab.steering.engines.vllm.passes import FusedHost, SteeredPasses
from trimtab.steering.errors import SteeringError, UnsupportedModel
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.tasks.serving.settings import Refused
from trimtab.tasks.vllm.admission import FIELD, MARK, PINNED, Admission, Pinned

log = logging.getLogger("vllm.trimtab")  # vLLM shows what its own loggers say
PROVING = 8  # tokens of the pass that proves where things are

Method = Callable[..., Any]
_PASSES: dict[str, SteeredPasses] = {}  # of the engines of this process, by the id of their configuration
_UNPROVED: dict[str, str] = {}  # why an engine's model cannot be steered


def register() -> None:
    """Called by vLLM, possibly several times in one process."""
    _wrap(InputProcessor, "process_inputs", _admitting)
    for request in (ChatCompletionRequest, CompletionRequest):
        _wrap(request, "to_beam_search_params", _without_beams)
    _wrap(EngineCore, "preprocess_add_request", _preparing)
    _wrap(EngineCore, "post_step", _failing)
    _wrap(Worker, "initialize_from_config", _attaching)


def _wrap(owner: type, name: str, wrapper: Callable[[Method], Method]) -> None:
    method = getattr(owner, name)
    if not hasattr(method, "steered"):
        wrapped = functools.wraps(method)(wrapper(method))
        wrapped.steered = True  # type: ignore[attr-defined]
        setattr(owner, name, wrapped)


def _admission(owner: Any) -> Admission:
    """Made when the first request comes, kept with the object that takes requests."""
    if not hasattr(owner, "trimtab_admission"):
        owner.trimtab_admission = Admission(owner.vllm_config)
    return owner.trimtab_admission


def _admitting(method: Method) -> Method:
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *rest: Any, **named: Any) -> Any:
        pinned = _pinned(self, _extra(params))
        request = method(self, request_id, prompt, params, *rest, **named)
        if request.cache_salt is not None and request.cache_salt.startswith(MARK):
            raise VLLMValidationError(f"salts that begin with '{MARK}' are those of steered prompts; choose another")
        if pinned is not None:
            request.cache_salt = pinned.salt(request.cache_salt)
            request.sampling_params.extra_args = {**_extra(params), PINNED: list(map(list, pinned.parts))}
        return request

    return process_inputs


def _pinned(processor: Any, extra: Mapping[str, Any]) -> Pinned | None:
    """What steers a request, or vLLM's own error for a request that cannot be served."""
    if PINNED in extra:
        raise VLLMValidationError(f"'{PINNED}' is set by the server; name plans in '{FIELD}'", parameter=PINNED)
    if not extra.get(FIELD):
        return None
    try:
        return _admission(processor).pinned(extra)
    except Refused as error:
        kind = VLLMNotFoundError if error.status == 404 else VLLMValidationError
        raise kind(str(error)) from None


def _extra(params: Any) -> Mapping[str, Any]:
    """Of sampling parameters; pooling has none."""
    return getattr(params, "extra_args", None) or {}


def _without_beams(method: Method) -> Method:
    def to_beam_search_params(self: Any, *rest: Any, **named: Any) -> Any:
        if (self.vllm_xargs or {}).get(FIELD):
            raise VLLMValidationError("vLLM's beam search would drop the steering; ask for samples instead of beams")
        return method(self, *rest, **named)

    return to_beam_search_params


def _preparing(method: Method) -> Method:
    def preprocess_add_request(self: Any, request: Any) -> Any:
        extra = _extra(request.sampling_params)
        if extra.get(FIELD) and Pinned.of(extra) is None:
            raise SteeringError(f"the request asks for '{extra[FIELD]}' and came past the admission of its steering")
        if Pinned.of(extra) is not None:
            reason = _UNPROVED.get(self.vllm_config.instance_id)
            if reason is not None:
                raise UnsupportedModel(f"this engine cannot steer: {reason}")
            _plan_of(_admission(self), extra)  # an error here fails the request; in the pass it would end the engine
        return method(self, request)

    return preprocess_add_request


def _plan_of(admission: Admission, extra: Mapping[str, Any]) -> SteeringPlan | None:
    pinned = Pinned.of(extra)
    return None if pinned is None else admission.plan(pinned)


def _attaching(method: Method) -> Method:
    def initialize_from_config(self: Any, *rest: Any, **named: Any) -> Any:
        result = method(self, *rest, **named)
        _attach(self)
        return result

    return initialize_from_config


def _attach(worker: Any) -> None:
    """Prove the worker's model and steer its passes; where that cannot be, say why to the log and to requests."""
    admission, engine = _admission(worker), worker.vllm_config.instance_id
    outline = admission.outline
    if admission.reason is not None or outline is None:
        log.warning("trimtab: this engine cannot steer: %s", admission.reason)
        return
    runner = worker.model_runner
    host = FusedHost(runner.get_model(), outline)
    try:
        host.prove(lambda: runner._dummy_run(PROVING, force_attention=True))
    except SteeringError as error:
        _UNPROVED[engine] = str(error)
        log.warning("trimtab: this engine cannot steer: %s", error)
        return
    passes = SteeredPasses(runner, host, functools.partial(_plan_of, admission))
    runner.execute_model = _steered(runner.execute_model, passes)
    _PASSES[engine] = passes
    log.info("trimtab: %s was proved; requests may name plans in '%s'", outline.model_type, FIELD)


def _steered(execute_model: Method, passes: SteeredPasses) -> Method:
    def steered(output: Any, *rest: Any, **named: Any) -> Any:
        passes.schedule(output)
        try:
            return execute_model(output, *rest, **named)
        finally:
            passes.unscheduled()

    return steered


def _failing(method: Method) -> Method:
    def post_step(self: Any, *rest: Any, **named: Any) -> Any:
        result = method(self, *rest, **named)
        passes = _PASSES.get(self.vllm_config.instance_id)
        if passes is not None and passes.overflown:
            _fail(self, sorted(passes.overflown))
        return result

    return post_step


def _fail(core: Any, overflown: Iterable[str]) -> None:
    """End requests whose plan is too strong, with an error to their clients."""
    running = [core.scheduler.requests[name] for name in overflown if name in core.scheduler.requests]
    for request in running:
        log.error("trimtab: request %s: activations are not finite, its plan is too strong", request.request_id)
        core.scheduler.finish_requests([request.request_id], RequestStatus.FINISHED_ERROR)
        if not hasattr(core, "_send_error_outputs_to_client"):  # the engine runs in its caller's process
            raise SteeringError(f"request {request.request_id}: activations are not finite: its plan is too strong")
        core._send_error_outputs_to_client([request.request_id], request.client_index)
