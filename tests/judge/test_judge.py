"""The whole judgement on a tiny model: yes to a planted effect, no to a plan that is only noise."""

import json
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import build

from trimtab.steering.errors import SteeringError
from trimtab.steering.fitters.mean_difference import MeanDifference
from trimtab.steering.fitters.pca import PCA
from trimtab.steering.judge.answering import AnsweringSettings, ExamQuestion
from trimtab.steering.judge.behaviour import Lexicon
from trimtab.steering.judge.candidates import RowRefit, by_site
from trimtab.steering.judge.judge import dosed_plan, judge
from trimtab.steering.judge.judge_input import JudgeInput, Texts
from trimtab.steering.judge.nulls import shape_of
from trimtab.steering.judge.placebo import PlaceboCounts
from trimtab.steering.judge.settings import AblationChoice, DoseSettings, JudgeSettings, PriceSettings, SearchSettings
from trimtab.steering.judge.token_bias import fitted_bias
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.logit_bias import logit_bias
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import ANSWER, LAST
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.ablate import Ablate
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.price.rollouts import roll_out
from trimtab.steering.running.answer_pair import AnswerPair
from trimtab.steering.running.contrast import Contrast, Pair
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding
from trimtab.steering.statistics import Interval

WANTED, UNWANTED, REQUEST = range(8), range(8, 16), 60
SETTINGS = JudgeSettings(
    search=SearchSettings(pairs=6),
    dose=DoseSettings(prompts=6, decoding=Decoding(8)),
    price=PriceSettings(prompts=8, decoding=Decoding(10, seed=1000), neutral=4, neutral_tokens=16, capability=4),
    ablation=AblationChoice(pairs=10, random=3),
    placebos=PlaceboCounts(random=6, covariance=3, shuffled=2, flip=1),
    report_pairs=24,
    placebo_pairs=16,
    completion_tokens=4,
    curve=(0.05, 0.2, 0.8),
    generations=2,
    generation_tokens=6,
)


def planted_direction(model) -> torch.Tensor:
    """What raises the logits of WANTED and lowers those of UNWANTED when added at the end of the residual stream."""
    head = model.lm_head.weight.detach()
    gap = head[list(WANTED)].mean(0) - head[list(UNWANTED)].mean(0)
    return gap / gap.norm()


@pytest.fixture(scope="module")
def asking(tiny):
    """The tiny model, in which the token REQUEST pushes along the planted direction: a prompt that can ask."""
    before = tiny.model.embed_tokens.weight.detach().clone()
    with torch.no_grad():
        tiny.model.embed_tokens.weight[REQUEST] = 60 * planted_direction(tiny)
    yield tiny
    with torch.no_grad():
        tiny.model.embed_tokens.weight.copy_(before)


def rows(model, signal: float, seed: int) -> Contrast:
    """40 pairs of noisy rows per block; only those of the last block carry the planted direction."""
    generator = torch.Generator().manual_seed(seed)
    direction, sites = planted_direction(model), {}
    for block in range(3):
        noise = torch.randn(2, 40, 32, generator=generator)
        shift = signal * direction if block == 2 else torch.zeros(32)
        sites[Site("resid_post", block)] = Pair(noise[0] + shift, noise[1] - shift)
    return Contrast(sites)


def pairs(make_text, count: int, seed: int, request: bool = False) -> list[AnswerPair]:
    generator, found = np.random.default_rng(seed), []
    for k in range(count):
        prompt = make_text(seed * 1000 + k, 6 + k % 3, 0)
        if request:
            ids = np.append(prompt.ids[:-1], REQUEST)
            prompt = Tokens(ids, len(ids), prompt.roles, prompt.special)
        wanted, unwanted = (generator.choice(list(side), 4) for side in (WANTED, UNWANTED))
        found.append(AnswerPair(prompt.followed_by(wanted), prompt.followed_by(unwanted)))
    return found


def decode(ids) -> str:
    return " ".join("yes" if i in WANTED else "no" if i in UNWANTED else "x" for i in ids)


@pytest.fixture
def judge_input(asking, make_text):
    def make(signal: float, seed: int = 0, **changes) -> JudgeInput:
        contrast = rows(asking, signal, seed)
        candidates = by_site(MeanDifference().fit(contrast).spanning(ANSWER))
        texts = Texts(
            select=pairs(make_text, 8, 1),
            report=pairs(make_text, 24, 2),
            requesting=pairs(make_text, 24, 2, request=True),
            neutral=[make_text(900 + k, 20, 0) for k in range(4)],
            capability=pairs(make_text, 4, 3),
        )
        judged = JudgeInput(
            name="planted",
            model=asking,
            candidates=candidates,
            refit=RowRefit(MeanDifference(), contrast, candidates),
            fitter_name="mean_difference",
            contrast=contrast,
            texts=texts,
            budget=0.2,
            decode=decode,
            behaviour=Lexicon(["yes"], ["no"]),
            settings=SETTINGS,
        )
        return replace(judged, **changes)

    return make


def test_yes_to_a_planted_effect(judge_input):
    stages = []
    judged = judge_input(2.0)
    found = judge(judged, lambda stage, done, total: stages.append((stage, done, total)))
    assert found.site == "resid_post.2" and found.beats_random, found.sentence
    assert "more than each of 9 random" in found.sentence and "p = 0.1" in found.sentence
    plan = found.contenders[0]
    assert plan.kind == "plan" and plan.effect.margin.low > 0 and plan.effect.behaviour.low > 0
    assert plan.kl == pytest.approx(0.2, rel=0.1) and found.dose.reachable
    kinds = [one.kind for one in found.contenders]
    assert [kinds.count(k) for k in ("random", "covariance", "shuffled", "flip", "system_prompt")] == [6, 3, 2, 1, 1]
    flip = found.contenders[kinds.index("flip")]
    assert flip.effect.margin.high < 0 < flip.difference.low
    for one in found.contenders:
        assert one.kind == "system_prompt" or one.kl == pytest.approx(0.2, rel=0.2) or not one.reachable
    assert {stage for stage, _, _ in stages} >= {"search", "dose", "price", "placebos", "curve", "ablation"}
    assert all(0 <= done <= total for _, done, total in stages)
    assert {one.site for one in found.contenders if one.kind == "plan"} == {found.site}
    nulls = [one.site for one in found.contenders if one.kind in ("random", "covariance", "shuffled")]
    assert flip.site == found.site and len(set(nulls)) > 1, (
        "placebos are searched, they do not stand at the plan's site"
    )
    dosed, prompts = dosed_plan(judged, found), [p.positive.prompt for p in judged.texts.report][:8]
    spent = divergences(
        Scorer(judged.model), roll_out(judged.model, dosed, prompts, Decoding()), steered_from_base(dosed)
    )
    assert np.concatenate(spent).mean() == pytest.approx(0.2, rel=0.6)


def test_asking_is_undone_by_ablation_and_not_by_random_directions(judge_input):
    quick = replace(SETTINGS, placebos=PlaceboCounts(0, 0, 0, 0), curve=(), completion_tokens=1)
    found = judge(judge_input(2.0, settings=quick)).ablation
    assert found.asked_gain.low > 0
    assert found.removed > 0.6 > max(found.random_removed) and len(found.random_removed) == 3
    assert found.kl > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_no_to_noise(judge_input, seed):
    found = judge(judge_input(0.0, seed))
    assert not found.beats_random
    assert "does NOT beat random" in found.sentence and "more than each" not in found.sentence


def test_the_verdict_is_json_and_reproducible(judge_input):
    small = replace(SETTINGS, placebos=PlaceboCounts(2, 1, 1, 1), curve=(0.05,))
    one, other = (judge(judge_input(2.0, settings=small)) for _ in range(2))
    assert json.dumps(one.to_json(), allow_nan=False) == json.dumps(other.to_json(), allow_nan=False)
    assert one.splits["report_pairs"] == 24 and one.splits["placebo_pairs"] == 16
    assert {point.site for point in one.search} == {f"resid_post.{k}" for k in range(3)}
    assert [p.contender for p in one.curve].count("planted") == 2
    kls = [p.kl for p in one.curve if p.contender == "planted"]
    assert kls == sorted(kls)
    assert len(one.generations) == 2 and one.generations[0].kl > 0


def intervals(value) -> list[Interval]:
    """Every interval in a result, however deep."""
    if isinstance(value, Interval):
        return [value]
    inner = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else value
    return [one for part in inner for one in intervals(part)] if isinstance(inner, list | tuple) else []


def test_first_answers_are_told_when_the_dose_is_there(judge_input):
    heard: list[object] = []
    judged = replace(
        judge_input(2.0, settings=replace(SETTINGS, placebos=PlaceboCounts(1, 0, 0, 0))), tell=heard.append
    )
    verdict = judge(judged, lambda stage, done, total: heard.append(stage))
    at = heard.index(verdict.generations)
    assert "dose" in heard[:at] and not {"price", "placebos", "curve"} & {*heard[:at]}
    assert {"price", "placebos", "curve"} <= set(heard[at:])


def test_every_interval_is_over_prompts(judge_input):
    """20 report pairs that answer 5 prompts, and 4 neutral texts of which one comes twice."""
    quick = replace(SETTINGS, placebos=PlaceboCounts(1, 1, 1, 1), curve=(0.05,), generations=1)
    judged = judge_input(2.0, settings=quick)
    prompts = [pair.positive.prompt for pair in judged.texts.report[:5]]
    again = lambda text, k: prompts[k % 5].followed_by(text.ids[text.prompt_length :])  # noqa: E731
    report = [AnswerPair(again(p.positive, k), again(p.negative, k)) for k, p in enumerate(judged.texts.report[:20])]
    neutral = [*judged.texts.neutral[:3], judged.texts.neutral[0]]
    texts = replace(judged.texts, report=report, requesting=judged.texts.requesting[:20], neutral=neutral)
    found = judge(replace(judged, texts=texts))
    assert {(one.n, one.clusters) for one in intervals(found)} == {(20, 5), (16, 5), (10, 5), (5, 5), (4, 3)}
    assert "on 20 held-out pairs of 5 prompts (5 prompts are too few" in found.sentence and found.paired


def test_texts_that_answer_different_prompts_are_not_called_pairs(judge_input, make_text):
    quick = replace(SETTINGS, placebos=PlaceboCounts(0, 0, 0, 0), curve=(), ablation=AblationChoice(0, 0))
    judged = judge_input(2.0, settings=quick, behaviour=None)
    other = [make_text(5000 + k, 7, 0) for k in range(24)]
    report = [
        AnswerPair(p.positive, prompt.followed_by(p.negative.ids[p.negative.prompt_length :]))
        for p, prompt in zip(judged.texts.report, other, strict=True)
    ]
    found = judge(replace(judged, texts=replace(judged.texts, report=report, requesting=())))
    assert not found.paired and "on 24 couples of unrelated held-out texts" in found.sentence


def test_without_a_request_or_a_behaviour(judge_input):
    judged = judge_input(2.0, behaviour=None, settings=replace(SETTINGS, placebos=PlaceboCounts(0, 0, 0, 0), curve=()))
    judged = replace(judged, texts=replace(judged.texts, requesting=(), capability=()))
    found = judge(judged)
    assert found.ablation is None and found.behaviour_metric is None and found.price.capability_base is None
    assert [one.kind for one in found.contenders] == ["plan"]
    assert not found.beats_random and "No random placebo was tried" in found.sentence


def test_known_answers_are_asked_of_the_dosed_plan(judge_input):
    quick = replace(SETTINGS, placebos=PlaceboCounts(0, 0, 0, 0), curve=(), ablation=AblationChoice(0, 0))
    judged = judge_input(2.0, settings=replace(quick, answering=AnsweringSettings(questions=6, tokens=6)))
    exam = [ExamQuestion(pair.positive.prompt, "x") for pair in judged.texts.report]
    found = judge(replace(judged, texts=replace(judged.texts, exam=exam)))
    assert found.answering.asked == 6 and found.answering.limit == 6 and len(found.answering.points) == 4
    assert "questions that the model answers rightly by itself" in found.sentence
    assert judge(judged).answering is None


def test_a_candidate_may_act_at_many_sites(judge_input):
    """A plan of all blocks wins over two that act where nothing is; placebos act at all of its sites too."""
    judged = judge_input(2.0, settings=replace(SETTINGS, placebos=PlaceboCounts(3, 1, 1, 1), curve=()))
    early = {name: plan for name, plan in judged.candidates.items() if name != "resid_post.2"}
    steps = tuple(step for plan in judged.candidates.values() for step in plan.interventions)
    candidates = {**early, "all blocks": replace(judged.candidates["resid_post.2"], interventions=steps)}
    found = judge(replace(judged, candidates=candidates, refit=RowRefit(MeanDifference(), judged.contrast, candidates)))
    assert found.site == "all blocks" and "(mean_difference at all blocks)" in found.sentence
    assert [point.site for point in found.search] == [*early, "all blocks"]
    plan, flip = (next(one for one in found.contenders if one.kind == kind) for kind in ("plan", "flip"))
    everywhere = "resid_post.0, resid_post.1, resid_post.2"
    assert plan.site == flip.site == everywhere
    assert plan.effect.margin.low > 0 and plan.kl == pytest.approx(0.2, rel=0.1)
    assert {one.site for one in found.contenders if one.kind in ("random", "covariance", "shuffled")} <= {
        *early, everywhere
    }  # fmt: skip
    dosed = dosed_plan(judged=replace(judged, candidates=candidates), verdict=found)
    assert [step.strength for step in dosed.interventions] == [found.dose.strength] * 3


def test_an_unreachable_budget_is_said(judge_input):
    quick = replace(SETTINGS, placebos=PlaceboCounts(0, 0, 0, 0), curve=(), ablation=AblationChoice(0, 0))
    found = judge(judge_input(2.0, budget=400.0, settings=quick))
    assert not found.dose.reachable and "could not be dosed to 400 nats" in found.sentence


def test_rivals_are_judged_at_the_same_price(judge_input):
    judged = judge_input(2.0, settings=replace(SETTINGS, placebos=PlaceboCounts(1, 0, 0, 0), curve=()))
    rival = judged.candidates["resid_post.0"]
    found = judge(replace(judged, rivals={"early": rival, "same": judged.candidates["resid_post.2"].scaled(3.0)}))
    early, same = (one for one in found.contenders if one.kind == "method")
    assert early.difference.low > 0 and "early has less effect at this price" in found.sentence
    assert abs(same.difference.mean) < 0.1 * found.contenders[0].effect.margin.mean


def test_the_model_is_left_as_it_was(judge_input):
    judged = judge_input(2.0, settings=replace(SETTINGS, placebos=PlaceboCounts(1, 0, 0, 0), curve=()))
    ids = torch.arange(12)[None]
    before = judged.model(ids).logits
    judge(judged)
    assert torch.equal(judged.model(ids).logits, before)
    assert Anatomy.of(judged.model).n_layers == 3


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda t: replace(t, candidates={}), "nothing to judge"),
        (lambda t: replace(t, texts=replace(t.texts, report=t.texts.report[:1], requesting=())), "1 report pairs"),
        (lambda t: replace(t, texts=replace(t.texts, requesting=t.texts.requesting[:5])), "needs its partner|need"),
        (lambda t: replace(t, texts=replace(t.texts, neutral=())), "0 neutral texts"),
        (lambda t: judge(replace(t, budget=-1.0)), "above 0|budget"),
    ],
)
def test_bad_input(judge_input, change, words):
    with pytest.raises(SteeringError, match=words):
        change(judge_input(1.0))


class Shelf:
    """Nulls in memory."""

    def __init__(self) -> None:
        self.kept: dict[object, object] = {}

    def get(self, shape):
        return self.kept.get(shape)

    def put(self, shape, nulls) -> None:
        assert shape not in self.kept
        self.kept[shape] = nulls


def test_nulls_that_another_method_measured_are_its_own_to_the_bit(judge_input):
    """The second method takes the first one's; alone it would have measured the same."""
    small = replace(SETTINGS, placebos=PlaceboCounts(3, 2, 1, 1), curve=(0.05,))
    first = judge_input(2.0, settings=small)
    pca = PCA().fit(first.contrast).spanning(ANSWER)
    candidates = dict(reversed(by_site(pca.scaled(3.0)).items()))
    second = replace(first, candidates=candidates, refit=RowRefit(PCA(), first.contrast, candidates))
    shelf, alone = Shelf(), judge(second)
    judge(replace(first, nulls=shelf))
    assert len(shelf.kept) == 1 and len(next(iter(shelf.kept.values()))) == 5
    shared = judge(replace(second, nulls=shelf))
    assert json.dumps(shared.to_json()) == json.dumps(alone.to_json())


def test_a_null_serves_only_plans_that_act_as_it_does(judge_input):
    judged = judge_input(2.0)
    shape = shape_of(judged.candidates)
    assert shape is not None and [place for place, _ in shape] == list(judged.candidates)
    assert shape == shape_of(dict(reversed(judged.candidates.items())))
    moved = {name: plan.spanning(LAST) for name, plan in judged.candidates.items()}
    joint = {"both": sum((plan for plan in judged.candidates.values()), SteeringPlan(()))}
    other = {
        name: replace(plan, interventions=(replace(plan.interventions[0], move=Ablate(torch.eye(32)[:1])),))
        for name, plan in judged.candidates.items()
    }
    assert shape_of(moved) != shape and shape_of(joint) is None and shape_of(other) is None


def test_where_only_words_differ_a_bias_on_tokens_does_as_much(judge_input, make_text):
    """The planted direction raises the wanted tokens, and so does the bias that is fitted to the same answers."""
    small = replace(SETTINGS, placebos=PlaceboCounts(1, 0, 0, 0), curve=(), ablation=AblationChoice(0))
    judged = judge_input(2.0, settings=small)
    weights = {name: tensor.clone() for name, tensor in judged.model.state_dict().items()}
    found = judge(replace(judged, texts=replace(judged.texts, fit=pairs(make_text, 20, 5))))
    (bias,) = (one for one in found.contenders if one.kind == "token_bias")
    assert bias.reachable and bias.kl == pytest.approx(0.2, rel=0.2) and bias.effect.margin.low > 0
    assert bias.effect.behaviour.low > 0 and bias.difference.low < 0, "the plan has found no more than words"
    assert "A bias on tokens, fitted to the same answers," in found.sentence
    assert judged.model.lm_head.bias is None
    assert all(torch.equal(tensor, weights[name]) for name, tensor in judged.model.state_dict().items())


def test_the_bias_is_the_gradient_over_how_often_a_token_comes():
    def answer(*ids: int) -> Tokens:
        return Tokens(np.array([1, *ids]), 1, np.zeros(1 + len(ids), np.uint8), np.zeros(1 + len(ids), bool))

    fitted = fitted_bias([AnswerPair(answer(5, 5, 6), answer(6, 7)), AnswerPair(answer(5, 8), answer(7, 7))], 10)
    want = torch.zeros(10)
    want[5], want[7], want[8] = 3 / (3 + 2), -3 / (3 + 2), 1 / (1 + 2)
    torch.testing.assert_close(fitted, want)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_bias_on_logits_is_added_before_a_cap_and_leaves_nothing(family):
    model, ids = build(family), torch.arange(2, 8)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        bias = torch.randn(before.shape[-1], generator=torch.Generator().manual_seed(0))
        with logit_bias(model, bias):
            under = model(input_ids=ids).logits
        cap = getattr(model.config, "final_logit_softcapping", None)
        want = before + bias if cap is None else torch.tanh(torch.atanh(before / cap) + bias / cap) * cap
        torch.testing.assert_close(under, want, atol=1e-4, rtol=1e-4)
        assert torch.equal(model(input_ids=ids).logits, before)
