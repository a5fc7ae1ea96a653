"""The engine in this process: each answer is what `plan.on` gives with transformers, whatever runs beside it."""

import random

import pytest
from vllm_subjects import NEW, SITES, SPANS, Subject, moves

pytest.importorskip("vllm.engine")
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

from trimtab.steering.moves import MOVES
from trimtab.tasks.vllm.admission import Pinned

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], list(range(20, 90)), [13], list(range(300, 333))]
TOLERANCE = 2e-4  # of log-probabilities in float32


def engine(subject: Subject, **settings) -> LLM:
    fixed = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "block_size": 32, "seed": 0}
    return LLM(model=str(subject.folder), **{**fixed, **settings})


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def llm(request, tiny, home_of):
    """So few tokens a pass that prompts run in chunks, and so few requests that most wait. Both ways in which vLLM
    builds a model: its own fused blocks, here in this process; and those of transformers, in a process of its own
    (in this one, vLLM would change the classes that give the expected answers)."""
    with home_of(tiny), pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", str(int(request.param == "transformers")))
        yield engine(tiny, model_impl=request.param, max_num_seqs=8, max_num_batched_tokens=64)


def answered(llm: LLM, requests: list[tuple[list[int], str | None]], logprobs: int | None = None):
    sampling = [
        SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=logprobs,
                       extra_args=None if steering is None else {"steering": steering})
        for _, steering in requests
    ]  # fmt: skip
    prompts = [{"prompt_token_ids": ids} for ids, _ in requests]
    return [output.outputs[0] for output in llm.generate(prompts, sampling, use_tqdm=False)]


def tokens(llm: LLM, requests: list[tuple[list[int], str | None]]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answered(llm, requests)]


def check_logprobs(llm: LLM, subject: Subject, ids: list[int], name: str) -> None:
    """Tokens, and the log-probabilities of the 20 most likely ones before each."""
    (answer,) = answered(llm, [(ids, name)], logprobs=20)
    plan = subject.plans[name]
    assert list(answer.token_ids) == subject.alone(ids, plan)
    expected = subject.logprobs(ids, list(answer.token_ids), plan)
    for step, row in zip(answer.logprobs, expected, strict=True):
        off = max(abs(entry.logprob - row[token].item()) for token, entry in step.items())
        assert off < TOLERANCE, f"{name}: off by {off}"


@pytest.mark.parametrize("name", sorted(moves(8)))
def test_every_move(llm, tiny, name):
    check_logprobs(llm, tiny, PROMPTS[2], name)


@pytest.mark.parametrize("site", SITES)
def test_every_site(llm, tiny, site):
    check_logprobs(llm, tiny, PROMPTS[2], f"at-{site}")


@pytest.mark.parametrize("span", SPANS)
def test_every_span_also_of_a_prompt_in_chunks(llm, tiny, span):
    """70 tokens of prompt where a pass has 64."""
    check_logprobs(llm, tiny, PROMPTS[2], f"span-{span.replace(':', '-')}")


def test_no_move_is_left_out():
    assert set(moves(8)) == set(MOVES) - {"gated"}


def test_plans_change_answers(tiny):
    """Otherwise every test here would pass without steering."""
    unsteered = tiny.alone(PROMPTS[2], None)
    steered = {name: tiny.alone(PROMPTS[2], tiny.plans[name]) for name in moves(8)}
    assert sum(answer != unsteered for answer in steered.values()) >= 6


def test_many_mixed_requests_share_passes_and_prefixes(llm, tiny):
    """60 requests with 14 plans and none, twice over, so that the second time finds everything in the prefix cache."""
    shuffled = random.Random(1)
    names = [None, None, *moves(8), *(f"span-{span.replace(':', '-')}" for span in SPANS)]
    requests = [(shuffled.choice(PROMPTS), shuffled.choice(names)) for _ in range(60)]
    expected = [tiny.alone(ids, tiny.plans.get(name)) for ids, name in requests]
    assert tokens(llm, requests) == expected
    shuffled.shuffle(order := list(range(60)))
    assert tokens(llm, [requests[k] for k in order]) == [expected[k] for k in order]


def test_sums_and_factors(llm, tiny):
    sums = {
        "0.5 add@prod + 0.3 affine@1": tiny.plans["add"].scaled(0.5) + tiny.plans["affine"].scaled(0.3),
        "add@1*-2": tiny.plans["add"].scaled(-2),
        "0.123456789 add": tiny.plans["add"].scaled(0.123456789),
    }
    got = tokens(llm, [(PROMPTS[2], text) for text in sums])
    assert got == [tiny.alone(PROMPTS[2], plan) for plan in sums.values()]


def test_a_steered_prompt_never_serves_another_plan(llm, tiny):
    """The same 96 tokens under two plans and none, in every order, with the prefix cache on."""
    ids = [3 + (7 * k) % 40 for k in range(96)]
    plans = ["add", None, "affine", None, "add", "affine@1"]
    expected = {name: tiny.alone(ids, tiny.plans.get(name and name.partition("@")[0])) for name in plans}
    assert len({tuple(answer) for answer in expected.values()}) == 3
    for order in (plans, plans[::-1], plans[2:] + plans[:2]):
        for name in order:
            assert tokens(llm, [(ids, name)]) == [expected[name]]


def test_without_the_salt_it_would_be_wrong(llm, tiny, monkeypatch):
    """What the salt is for: all prompts under one salt, and an unsteered request continues a steered one's cache."""
    ids = [5 + (11 * k) % 50 for k in range(96)]
    monkeypatch.setattr(Pinned, "salt", lambda self, own: own)
    steered, unsteered = tokens(llm, [(ids, "add")])[0], tokens(llm, [(ids, None)])[0]
    assert steered == tiny.alone(ids, tiny.plans["add"])
    assert unsteered != tiny.alone(ids, None)


def test_prefixes_are_still_shared_within_a_plan(llm, tiny):
    ids = [2 + (13 * k) % 60 for k in range(96)]
    request = [{"prompt_token_ids": ids}]
    sampling = SamplingParams(temperature=0, max_tokens=2, extra_args={"steering": "add"})
    first, second = (llm.generate(request, sampling, use_tqdm=False)[0].num_cached_tokens for _ in range(2))
    assert (first, second) == (0, 64)  # whole pages before the last token


@pytest.mark.parametrize(
    ("steering", "error", "match"),
    [
        ("gated", VLLMValidationError, "gated"),
        ("mlp", VLLMValidationError, "mlp_out.1, which vLLM's fused blocks"),
        ("nosuch@prod", VLLMNotFoundError, "nosuch"),
        ("add brief", VLLMValidationError, "no plan with a factor"),
        ("50 add", VLLMValidationError, "at most 20 times"),
        ("2 ablate", VLLMValidationError, "at most 1 times"),
        ({"plan": "add", "govern": 0.5}, VLLMValidationError, "trimtab serve"),
        ({"plan": "add", "kl": 0.5}, VLLMValidationError, "trimtab serve"),
        (["add"], VLLMValidationError, "is a list"),
    ],
)
def test_what_cannot_act_is_refused_with_the_reason(llm, tiny, steering, error, match):
    with pytest.raises(error, match=match):
        answered(llm, [(PROMPTS[0], steering)])
    assert tokens(llm, [(PROMPTS[0], "add")]) == [tiny.alone(PROMPTS[0], tiny.plans["add"])], "the engine goes on"


def test_nobody_can_write_what_the_plugin_writes(llm):
    sampling = SamplingParams(max_tokens=1, extra_args={"trimtab": [["add@1", "0", 1.0]]})
    with pytest.raises(VLLMValidationError, match="set by the server"):
        llm.generate([{"prompt_token_ids": [1, 2]}], sampling, use_tqdm=False)
    salted = {"prompt_token_ids": [1, 2], "cache_salt": "trimtab:0"}
    with pytest.raises(VLLMValidationError, match="those of steered prompts"):
        llm.generate([salted], SamplingParams(max_tokens=1), use_tqdm=False)


def test_sampled_answers_follow_their_own_plan(llm, tiny):
    """n answers of one request, at a temperature: every token is likely under the steered model."""
    sampling = SamplingParams(temperature=0.3, max_tokens=NEW, n=4, seed=3, ignore_eos=True, logprobs=1,
                              extra_args={"steering": "add"})  # fmt: skip
    (output,) = llm.generate([{"prompt_token_ids": PROMPTS[0]}], sampling, use_tqdm=False)
    for answer in output.outputs:
        expected = tiny.logprobs(PROMPTS[0], list(answer.token_ids), tiny.plans["add"])
        for token, step, row in zip(answer.token_ids, answer.logprobs, expected, strict=True):
            assert abs(step[token].logprob - row[token].item()) < TOLERANCE


def test_a_compiled_engine_refuses(tiny, home_of, monkeypatch):
    """Hooks would not act in compiled code; unsteered requests are served."""
    with home_of(tiny):
        compiled = engine(tiny, model_impl="vllm", max_num_seqs=2)
        monkeypatch.setattr(compiled.llm_engine.vllm_config.model_config, "enforce_eager", False)
        with pytest.raises(VLLMValidationError, match="--enforce-eager"):
            answered(compiled, [(PROMPTS[0], "add")])
    assert tokens(compiled, [(PROMPTS[0], None)]) == [tiny.alone(PROMPTS[0], None)]


def test_log_probabilities_are_close_where_the_model_is_real(smollm2, home_of):
    """SmolLM2 in float32, in vLLM's own blocks."""
    ids = smollm2.prompt("Tell me about your day.")
    with home_of(smollm2):
        llm = engine(smollm2, max_num_seqs=8)
        for name in smollm2.plans:
            check_logprobs(llm, smollm2, ids, name)
        requests = [(ids, name) for name in (*smollm2.plans, None)] * 2
        assert tokens(llm, requests) == [smollm2.alone(i, smollm2.plans.get(n)) for i, n in requests]
