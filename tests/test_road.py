"""The Python road from text to plan, on tiny models; end_to_end/test_real_model.py has it on the real one."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import trimtab
from trimtab.steering import (
    Add,
    Contrast,
    Examples,
    Gradient,
    Intervention,
    Linear,
    MeanDifference,
    PromptFormat,
    Rows,
    SteeringPlan,
    capture,
    dose,
    tokenize,
)
from trimtab.steering.errors import BadSite, SteeringError
from trimtab.steering.fitters import FITTERS
from trimtab.steering.gates import GATES
from trimtab.steering.judge.effect import margins
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves import MOVES
from trimtab.steering.price.kl import divergences, steered_from_base
from trimtab.steering.running.scorer import Scorer
from trimtab.store import Artifact, Catalog
from trimtab.store.errors import NotFound
from trimtab.tasks.errors import RecipeError

PLAIN = PromptFormat(chat=False)
PAIRS = [(f"w{k} w{k + 1}", f"w{k + 20} w{k + 21} w3", f"w{k + 40} w{k + 41}") for k in range(2, 12)]
PROMPTS = [f"w{k} w{k + 3} w{2 * k}" for k in range(4, 12)]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of the tiny models' 61 words, without a chat template."""
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(61)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w1")


def test_the_rows_of_pairs_are_those_of_capture(tiny_llama, words):
    contrast = Contrast.from_pairs(tiny_llama, words, PAIRS, sites=["resid_post", "z.1.2"], form=PLAIN)
    assert list(contrast.sites) == [*(Site("resid_post", k) for k in range(3)), Site("z", 1, 2)] and contrast.paired
    for sign, k in (("positive", 1), ("negative", 2)):
        texts = [tokenize(words, pair[0], pair[k], PLAIN) for pair in PAIRS]
        each = capture(Anatomy.of(tiny_llama), texts, ["resid_post.1"], Rows("generated"), share=False)
        want = torch.stack([rows.double().mean(0) for rows in each.rows[Site("resid_post", 1)]]).float()
        torch.testing.assert_close(getattr(contrast.sites[Site("resid_post", 1)], sign), want, rtol=1e-4, atol=1e-5)


def test_texts_without_a_prompt_count_whole_and_special_tokens_never(tiny_llama, words):
    texts = [(f"w{k} w1 w5", f"w{k + 20}") for k in range(2, 8)]  # w1 is the end-of-text token
    contrast = Contrast.from_pairs(tiny_llama, words, texts, sites="resid_post.0", rows=Rows(pool=None), form=PLAIN)
    pair = contrast.sites[Site("resid_post", 0)]
    assert (len(pair.positive), len(pair.negative), contrast.paired) == (12, 6, False)
    last = Contrast.from_pairs(tiny_llama, words, texts, Site("resid_post", 0), Rows("last"), PLAIN)
    assert len(last.sites[Site("resid_post", 0)].positive) == 6 and last.paired


def test_a_plan_knows_its_model_and_its_sites(tiny_llama, words, tmp_path):
    contrast = Contrast.from_pairs(tiny_llama, words, PAIRS, form=PLAIN)
    plan = MeanDifference().fit(contrast).at("resid_post.1")
    assert plan.model == Anatomy.of(tiny_llama).fingerprint and plan.sites == (Site("resid_post", 1),)
    with pytest.raises(BadSite, match="nothing at resid_post.7; it acts at resid_post.0, resid_post.1, resid_post.2"):
        MeanDifference().fit(contrast).at("resid_post.7")
    plan.save(tmp_path / "plan.safetensors")
    again = SteeringPlan.load(tmp_path / "plan.safetensors")
    assert again.model == plan.model and str(again.interventions[0].site) == "resid_post.1"


def test_a_dose_brings_its_price(tiny_llama, words):
    plan = MeanDifference().fit(Contrast.from_pairs(tiny_llama, words, PAIRS, form=PLAIN)).at("resid_post.1")
    dosed = dose(tiny_llama, words, plan, PROMPTS, kl=0.1, form=PLAIN)
    assert dosed.dose.reachable and dosed.dose.achieved == pytest.approx(0.1, rel=0.1)
    assert dosed.plan.interventions[0].strength == pytest.approx(dosed.dose.strength)
    price = dosed.price
    assert price.direction == "steered||base" and price.mean.low < price.mean.mean < price.mean.high
    assert 0.03 < price.mean.mean < 0.3, "on other answers, so not the same number"


def test_a_budget_out_of_reach_is_said(tiny_llama, words):
    nothing = SteeringPlan((Intervention("resid_post.1", Add(torch.zeros(40))),))
    with pytest.warns(UserWarning, match="no strength costs 0.1 nats per token"):
        assert not dose(tiny_llama, words, nothing, PROMPTS, kl=0.1, form=PLAIN).dose.reachable
    with pytest.raises(SteeringError, match="1 prompts give a price no interval"):
        dose(tiny_llama, words, nothing, PROMPTS[:1], kl=0.1, form=PLAIN)


@pytest.mark.parametrize("pairs", [[], PAIRS[:1], [("a", "b", "c", "d")] * 3])
def test_what_is_no_contrast_is_said(tiny_llama, words, pairs):
    with pytest.raises(SteeringError, match="no contrast|is none"):
        Contrast.from_pairs(tiny_llama, words, pairs, form=PLAIN)


def test_strings_are_sites_and_spans():
    step = Intervention("z.1.2", Add(torch.ones(4)), "first:3")
    assert (step.site, step.span) == (Site("z", 1, 2), Span("first", 3))
    assert SteeringPlan((step,)).spanning("answer").interventions[0].span == Span("answer")
    gate = Linear(weight=torch.ones(4), site="resid_post.1", threshold=0.0)
    assert gate.site == Site("resid_post", 1) and gate.reads[0].site == gate.place


@pytest.mark.parametrize("shelf", [MOVES, GATES, FITTERS], ids=["moves", "gates", "fitters"])
def test_methods_are_abstract_or_final(shelf):
    """What a class implements, no subclass implements again; dunder methods of dataclasses aside."""
    for name in shelf:
        lineage = shelf[name].__mro__
        for k, cls in enumerate(lineage):
            for attribute in vars(cls):
                above = [base for base in lineage[k + 1 :] if attribute in vars(base) and base is not object]
                again = [b for b in above if not getattr(vars(b)[attribute], "__isabstractmethod__", False)]
                assert attribute.startswith("_") or not again, f"{cls.__name__}.{attribute} of {again}"


def test_load_returns_what_was_published(tmp_path, tiny_llama, monkeypatch):
    plan = SteeringPlan((Intervention("resid_post.1", Add(torch.ones(40))),))
    packed, catalog = plan.pack(), Catalog(str(tmp_path / "catalog"))
    catalog.publish("warm", "plan", packed.arrays, packed.header, [], {}, {}, "key")
    catalog.promote("warm@1", "prod")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    for found in (trimtab.load("warm@prod"), trimtab.load("warm", home=tmp_path)):
        assert isinstance(found, SteeringPlan) and found.interventions[0].site == Site("resid_post", 1)
    with pytest.raises(NotFound, match="warn.*did you mean warm"):
        trimtab.load("warn@prod")
    assert isinstance(trimtab.load("warm@prod", expect=SteeringPlan), SteeringPlan)
    with pytest.raises(RecipeError, match="warm@1 is a plan, which loads as SteeringPlan, not Artifact"):
        trimtab.load("warm@prod", expect=Artifact)


def test_what_is_learned_through_the_model_comes_by_the_same_road(tiny_llama, words):
    """From texts to the candidate of most effect: its margin rises as forecast, and it costs about its budget."""
    examples = Examples.from_pairs(words, PAIRS, span="generated", budget=0.001, form=PLAIN)
    plans = Gradient(draws=16).learn(tiny_llama, examples)
    assert list(plans) == [f"resid_post.{block}" for block in range(3)]
    scorer = Scorer(tiny_llama)
    before, after = (margins(scorer, examples.pairs, plan).mean() for plan in (None, plans["resid_post.1"]))
    assert after > before
    answers = [text for pair in examples.pairs for text in (pair.positive, pair.negative)]
    spent = np.concatenate(divergences(scorer, answers, steered_from_base(plans["resid_post.1"]))).mean()
    assert spent == pytest.approx(0.001, rel=0.5)
    with pytest.raises(SteeringError, match="2 texts are no example"):
        Examples.from_pairs(words, [("w1 w2", "w3")] * 3, form=PLAIN)
