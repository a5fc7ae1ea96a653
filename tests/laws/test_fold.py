"""Law of folding: weights do what hooks do, within the rounding of the dtype, or the refusal says why not."""

import copy
import os
import re
from itertools import product

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import FAMILY_NAMES, LIKE
from transformers import AutoModelForCausalLM

from tests.laws.fold_table import row, stated, write
from trimtab.steering.errors import BadPlan, CannotFold
from trimtab.steering.gates.first import First
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.load import load_model
from trimtab.steering.model.site import Site
from trimtab.steering.moves import MOVES
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.fold import fold, fold_changes
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan


def refusal(anatomy: Anatomy, site: Site, move) -> str | None:
    """What must be said, or None when the fold is exact. Written from the residual algebra, not from fold's code."""
    family, affine = anatomy.family, move.affine()
    if affine is None:
        return "not an affine map"
    if site.point == "embed":
        return "only the embedding"
    if site.point.startswith("resid") and not affine.constant:
        return "skip path"
    if family.post_norm and site.point not in ("z", "mlp_post"):
        return "normalises between"
    if family.down_proj is None and site.point in ("mlp_out", "resid_post", "resid_pre"):
        return "mixture of experts"
    return None


def test_folded_is_hooked_or_refused(tiny, bench, assert_same):
    anatomy = Anatomy.of(tiny)
    before = bench.logits(tiny)
    for move, site in product(MOVES, bench.sites(tiny)):
        step = bench.step(tiny, site, move, strength=-0.6)
        plan, why = SteeringPlan((step,)), refusal(anatomy, site, step.move)
        if why is not None:
            with pytest.raises(CannotFold, match=why) as refused:
                fold(plan, tiny)
            assert str(refused.value).startswith(str(site)), "the message names the site"
            continue
        with plan.on(tiny):
            hooked = bench.logits(tiny)
        assert_same(bench.logits(fold(plan, tiny, in_memory=True)), hooked)
    assert torch.equal(bench.logits(tiny), before), "folding changed the model it was given"


def foldable(model, bench) -> list[Intervention]:
    """An affine map or, where only that folds, a constant, at each site of the model that folds at all."""
    steps = [bench.step(model, site, move, strength=0.4) for site in bench.sites(model) for move in ("affine", "add")]
    folds = [step for step in steps if refusal(Anatomy.of(model), step.site, step.move) is None]
    return list({step.site: step for step in folds}.values())


def test_saved_and_loaded_by_anyone_it_answers_as_hooked_or_was_refused(tiny, bench, assert_same, tmp_path, folder_of):
    """Folds site by site: those that a checkpoint can hold go into one plan, which is saved; of the rest each says so,
    and its copy in memory refuses to be saved."""
    kept = []
    for step in foldable(tiny, bench):
        plan = SteeringPlan((step,))
        try:
            fold(plan, tiny)
            kept.append(step)
        except CannotFold as error:
            assert re.match(rf"{step.site}: a checkpoint of \w+ has no place for .*\.bias", str(error)), error
            with pytest.raises(CannotFold, match="folded in memory: .* has no place"):
                fold(plan, tiny, in_memory=True).save_pretrained(tmp_path / "never")
    assert not (tmp_path / "never").exists()
    if not kept:
        return
    plan = SteeringPlan(tuple(kept))
    with plan.on(tiny):
        hooked = bench.logits(tiny)
    assert (hooked - bench.logits(tiny)).abs().max() > 0.1
    folder = folder_of(fold(plan, tiny), tmp_path / "folded")
    for loaded in (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        load_model(str(folder))[0],
    ):
        assert_same(bench.logits(loaded), hooked)


def test_the_page_says_what_folds_in_this_family(tiny, family_name, bench):
    assert stated(family_name) == row(family_name, tiny, bench), "run `make fold-table`"


@pytest.mark.skipif("TRIMTAB_WRITE_DOCS" not in os.environ, reason="writes a page, for `make fold-table`")
def test_the_table_is_written(build_tiny, bench):
    names = sorted({*FAMILY_NAMES, *LIKE})
    write([row(name, build_tiny(name), bench) for name in names])


def test_who_cannot_be_saved_and_who_can(build_tiny):
    """Written from the modelling code of transformers: where a projection has a bias, or a switch for one."""

    def saveable(family: str, *sites: str) -> list[bool]:
        model = build_tiny(family)
        return [can_fold(model, Site.parse(site)) for site in sites]

    def can_fold(model, site: Site) -> bool:
        try:
            fold(SteeringPlan((Intervention(site, Add(torch.ones(Anatomy.of(model).width(site)))),)), model)
        except CannotFold:
            return False
        return True

    for family in ("llama", "llama/plain", "smollm3", "seed_oss", "gpt2", "starcoder2", "phi", "opt", "gpt_neox"):
        assert saveable(family, "z.1.2", "mlp_out.1") == [True, True], family
    for family in ("qwen3", "cohere", "gemma", "olmo"):
        assert saveable(family, "z.1.2", "mlp_out.1") == [True, False], family
    for family in ("mistral", "qwen2", "phi3", "stablelm"):
        assert saveable(family, "z.1.2", "mlp_out.1") == [False, False], family


def test_switches_bring_zero_sisters_and_a_fold_in_memory_can_be_mended(build_tiny, bench, assert_same):
    model = build_tiny("llama/plain")
    folded = fold(bench.plan(model, Site("attn_out", 1)), model)
    assert folded.config.attention_bias and not folded.config.mlp_bias and not model.config.attention_bias
    assert not folded.model.layers[1].self_attn.q_proj.bias.any() and folded.model.layers[0].mlp.up_proj.bias is None
    mistral = build_tiny("mistral")
    constant, map_only = bench.plan(mistral, Site("mlp_out", 1)), bench.plan(mistral, Site("z", 1), "scale")
    memory = fold(constant, mistral, in_memory=True)
    with pytest.raises(CannotFold, match="no place for model.layers.1.mlp.down_proj.bias"):
        fold(map_only, memory)
    with pytest.raises(CannotFold, match="folded in memory"):
        fold(map_only, memory, in_memory=True).save_pretrained("never")
    assert "save_pretrained" not in vars(fold(map_only, mistral)), "no constant, no bias"


def test_adapted_and_wrapped_models_are_refused(build_tiny, bench):
    """Their save_pretrained writes an adapter alone, so the fold would be lost."""
    model = copy.deepcopy(build_tiny("llama"))
    plan = bench.plan(model, Site("z", 1))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    for adapted, why in ((wrapped, "PeftModel wraps the LlamaForCausalLM"), (model, "no place for .*q_proj")):
        with pytest.raises(CannotFold, match=why):
            fold(plan, adapted)
    assert fold(plan, wrapped.merge_and_unload()).model.layers[1].self_attn.o_proj.bias.any()


def everything(model, bench) -> SteeringPlan:
    """Several interventions at each projection, in an order that is not that of the computation."""
    asked = (
        "resid_post.1 add, mlp_out.1 affine, mlp_out.1 scale, z.1 affine, z.1.2 ablate, z.1 add, resid_mid.1 add, "
        "attn_out.1 ablate, resid_mid.1 add, mlp_post.0 affine, mlp_post.0 ablate, resid_pre.1 add, mlp_out.0 affine"
    )
    pairs = [step.split(" ") for step in asked.split(", ")]
    return SteeringPlan(tuple(bench.step(model, Site.parse(s), move, strength=0.4) for s, move in pairs))


@pytest.mark.parametrize("family", ("llama", "llama/plain", "gpt2", "opt", "gpt_neox/sequential"))
def test_many_interventions_fold_in_the_order_of_their_hooks(build_tiny, bench, assert_same, family):
    model = build_tiny(family)
    plan = everything(model, bench)
    with plan.on(model):
        hooked = bench.logits(model)
    assert_same(bench.logits(fold(plan, model)), hooked)
    backwards = SteeringPlan(plan.interventions[::-1])
    with backwards.on(model):
        other = bench.logits(model)
    assert_same(bench.logits(fold(backwards, model)), other)
    assert (other - hooked).abs().max() > 0.01, "the order should matter here"


def test_a_folded_model_saves_and_steers_on(build_tiny, bench, assert_same):
    """It is an ordinary model: it generates, takes further plans, and its fingerprint is another."""
    model = build_tiny("llama")
    plan = bench.plan(model, Site("resid_post", 1))
    folded = fold(plan, model)
    with plan.on(model):
        assert torch.equal(bench.generate(model)[0], bench.generate(folded)[0])
    assert Anatomy.of(folded).fingerprint != Anatomy.of(model).fingerprint
    with (plan * -1).on(folded):
        assert_same(bench.logits(folded), bench.logits(model))


def test_changes_say_where_a_bias_is_new(build_tiny, bench):
    plan = bench.plan(build_tiny("llama"), Site("resid_post", 1))
    (had,) = fold_changes(plan, build_tiny("llama"))
    assert (had.path, had.new_bias) == ("model.layers.1.mlp.down_proj", False)
    (made,) = fold_changes(plan, build_tiny("llama/plain"))
    assert made.new_bias and torch.allclose(made.bias, plan.interventions[0].move.vector)


def test_spans_gates_and_attached_models_are_refused(tiny_llama, bench):
    site = Site("resid_post", 1)
    with pytest.raises(CannotFold, match="only on span 'generated'"):
        fold(bench.plan(tiny_llama, site, span="generated"), tiny_llama)
    gated = Intervention(site, Gated(Add(torch.ones(40)), First(3)))
    with pytest.raises(CannotFold, match="a gate decides on each prompt"):
        fold(SteeringPlan((gated,)), tiny_llama)
    plan = bench.plan(tiny_llama, site)
    with plan.on(tiny_llama), pytest.raises(CannotFold, match="attached"):
        fold(plan, tiny_llama)
    with pytest.raises(CannotFold, match="only the embedding"):
        fold(bench.plan(tiny_llama, Site("resid_pre", 0)), tiny_llama)
    with pytest.raises(BadPlan, match="width 7"):
        fold(SteeringPlan((Intervention(site, Add(torch.ones(7))),)), tiny_llama)


def test_bfloat16_folds_within_its_own_rounding(build_tiny, bench):
    """The weights are computed in float64 and rounded once."""
    model = build_tiny("llama")
    plan = bench.plan(model, Site("attn_out", 1), "affine", strength=0.5)
    (exact,) = fold_changes(plan, model)
    (low,) = fold_changes(plan, copy.deepcopy(model).bfloat16())
    assert low.weight.dtype == torch.bfloat16
    assert (low.weight.float() - exact.weight).abs().max() <= 2**-7 * exact.weight.abs().max()
