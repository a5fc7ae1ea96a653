"""Laws of ablation: operators are what they are called, units cover each other, sets match and exclude, many questions
are corrected for, and directions split into what is read and what is not."""

import numpy as np
import pytest
import torch
from ground_truth import BACKUP, IDLE, INDUCTION, INTERFERING, PREVIOUS, ground_truth, questions

from trimtab.steering.ablation.curves import curves, one_by_one, specificity
from trimtab.steering.ablation.illusion import PatchEffect, diagnose, split, suspicion
from trimtab.steering.ablation.multiple import benjamini_hochberg, holm, sign_flip_p
from trimtab.steering.ablation.off_target import off_target
from trimtab.steering.ablation.operators import Operator, ReferenceRuns
from trimtab.steering.ablation.plans import head_plan, judge_heads, plan_metric
from trimtab.steering.ablation.runs import Ablator
from trimtab.steering.ablation.sets import matched_sets
from trimtab.steering.causal.head_scales import scaled_heads, scaled_logprobs, scales_of_one
from trimtab.steering.causal.patching import Patch, activations, patched
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.causal.units import head_units, subspace, unit_of
from trimtab.steering.errors import BadQuestion, BadRanking, BadSite, SteeringError, UnknownName
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.statistics import Interval

UNITS = ("z.1.3", "kv.1.0", "mlp_out.1", "attn_out.1", "block.1", "mlp_post.1.5", "z.1")


@pytest.fixture(scope="module")
def truth():
    return Anatomy.of(ground_truth())


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return Anatomy.of(tiny_llama)


@pytest.fixture(scope="module")
def asked():
    return questions(12)


def units(anatomy, *names):
    return [unit_of(anatomy, name) for name in names]


def run(anatomy, operator, asked, *sets, budget=1024):
    everything = [unit for one in sets for unit in one]
    made = Ablator.of(anatomy, operator, questions(10, seed=5), everything)
    return Ablator(anatomy, made.operator, made.reference, budget).metrics(asked, list(sets))


def test_an_empty_set_is_the_model_to_the_bit(llama, asked):
    batch = Batch.of(asked[:4], [0, 1, 2, 3], torch.device("cpu"))
    with torch.no_grad():
        whole = batch.logits(llama.model)
    ((_, _, logits),) = Ablator(llama).passes(batch, asked, [[]])
    assert torch.equal(logits, whole)


@pytest.mark.parametrize("operator", ["zero", "mean", "resample", "corrupted", "uniform", "scale:0.5"])
@pytest.mark.parametrize("name", ["z.1.3", "kv.1.0", "z.1"])
def test_every_operator_acts_on_heads_and_leaves_no_trace(llama, asked, operator, name):
    before = run(llama, operator, asked, [])
    changed = run(llama, operator, asked, [], units(llama, name))
    slack = 1e-5 if operator == "uniform" else 0  # attention in the open is not the fused kernel
    assert abs(changed[0] - before[0]).max() <= slack and not np.allclose(changed[1], changed[0])
    assert (run(llama, operator, asked, [])[0] == before[0]).all()


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_can_be_taken_out(llama, asked, name):
    whole, without = run(llama, "zero", asked, [], units(llama, name))
    assert not np.allclose(whole, without), name


def test_sets_do_not_depend_on_their_neighbours_or_the_batch(llama, asked):
    sets = [units(llama, "z.0.1"), units(llama, "block.1", "z.2.0"), [], units(llama, "kv.1.1")]
    together = run(llama, "mean", asked, *sets)
    reference = Ablator.of(llama, "mean", questions(10, seed=5), [u for one in sets for u in one])
    alone = np.stack([reference.metrics(asked, [one])[0] for one in sets])
    np.testing.assert_allclose(together, alone, atol=2e-4)
    narrow = Ablator(llama, reference.operator, reference.reference, budget=16).metrics(asked, sets)
    np.testing.assert_allclose(together, narrow, atol=2e-4)


def test_zero_is_scale_zero_and_a_gate_of_zero(llama, asked):
    chosen = units(llama, "z.0.1", "z.2.3")
    zero, scaled = (run(llama, operator, asked, chosen)[0] for operator in ("zero", "scale:0"))
    assert (zero == scaled).all()
    gates = scales_of_one(llama)
    gates[0, 0, 1] = gates[0, 2, 3] = 0
    plain = [Question(q.clean, q.target) for q in asked]
    np.testing.assert_allclose(
        Ablator(llama).metrics(plain, [chosen])[0], scaled_logprobs(llama, gates, plain)[0], atol=1e-4
    )
    with scaled_heads(llama, gates):
        np.testing.assert_allclose(run(llama, "zero", asked, [])[0], zero, atol=1e-4)


def test_corrupted_is_activation_patching(llama, asked):
    same = [question for question in asked if question.length == asked[0].length]
    batch = Batch.of(same, range(len(same)), torch.device("cpu"))
    other, _ = activations(llama, batch, [Site("z", 1)], "corrupted")
    want = patched(llama, batch, [Site("z", 1, 3)], Patch(other))[0]
    np.testing.assert_allclose(run(llama, "corrupted", same, units(llama, "z.1.3"))[0], want, atol=2e-4)


def test_one_group_is_its_heads_and_a_block_its_layers(llama, asked):
    group, heads = run(llama, "mean", asked, units(llama, "kv.1.0"), units(llama, "z.1.0", "z.1.1"))
    np.testing.assert_allclose(group, heads, atol=1e-5)
    block, layers = run(llama, "mean", asked, units(llama, "block.1"), units(llama, "attn_out.1", "mlp_out.1"))
    np.testing.assert_allclose(block, layers, atol=1e-5)


def test_a_full_subspace_is_the_whole_site(llama, asked):
    site = Site("resid_post", 1)
    everything = subspace(site, torch.randn(40, 40, generator=torch.Generator().manual_seed(0)))
    spanned, whole = run(llama, "mean", asked, [everything], units(llama, "resid_post.1"))
    np.testing.assert_allclose(spanned, whole, atol=1e-3)


def test_the_mean_is_that_of_the_reference_and_the_first_token_has_its_own(truth):
    reference = questions(6, seed=3)
    held = ReferenceRuns.of(truth, reference, [Site("z", 1)])
    rows = held.rows[Site("z", 1)]
    torch.testing.assert_close(held.mean(Site("z", 1), 5)[0, 0], torch.stack([r[0] for r in rows]).mean(0))
    torch.testing.assert_close(held.mean(Site("z", 1), 5)[0, 4], torch.cat([r[1:] for r in rows]).mean(0))


def test_resampling_puts_in_another_question(truth, asked):
    held = ReferenceRuns.of(truth, asked, [Site("z", 1)])
    batch = Batch.of(asked, range(len(asked)), torch.device("cpu"))
    put = held.resampled(Site("z", 1), batch, asked, seed=0)
    for k, question in enumerate(asked):
        last = put[k, question.length - 1]
        partner = held._partner(k, 0)
        assert partner != k and torch.equal(last, held.rows[Site("z", 1)][partner][-1])
        assert torch.equal(put[k, 0], held.rows[Site("z", 1)][partner][0])


@pytest.mark.parametrize("text", ["nothing", "scale", "scale:x", "zero:1", "scale:nan"])
def test_an_operator_that_is_none(text):
    with pytest.raises(UnknownName, match="operator"):
        Operator.parse(text)


@pytest.mark.parametrize(
    "name", ["head.3", "z", "kv.1.9", "kv.9.0", "block.7", "mlp_post.1.99", "resid_mid.1", "z.1.x"]
)
def test_a_unit_that_is_none(llama, name):
    with pytest.raises(SteeringError):
        unit_of(llama, name)


def test_what_cannot_be_done_says_so(llama, asked):
    with pytest.raises(BadSite, match="no attention pattern"):
        run(llama, "uniform", asked, units(llama, "mlp_out.1"))
    plain = [Question(q.clean, q.target) for q in asked]
    with pytest.raises(BadQuestion, match="corrupted"):
        Ablator(llama, Operator("corrupted")).metrics(plain, [units(llama, "z.1.3")])
    with pytest.raises(BadQuestion, match="reference"):
        Ablator(llama, Operator("mean")).metrics(plain, [units(llama, "z.1.3")])


def test_random_sets_match_the_blocks_and_exclude_the_set(truth):
    universe = head_units(truth)
    chosen = units(truth, "z.0.2", "z.1.3", "z.1.6")
    found = matched_sets(universe, chosen, 50, seed=4)
    for one in found:
        assert sorted(unit.block for unit in one) == [0, 1, 1]
        assert not {unit.name for unit in one} & {unit.name for unit in chosen}
        assert len({unit.name for unit in one}) == 3
    assert len({tuple(unit.name for unit in one) for one in found}) > 20
    assert [[u.name for u in s] for s in found] == [[u.name for u in s] for s in matched_sets(universe, chosen, 50, 4)]


def test_a_crowded_block_takes_its_neighbours(truth):
    chosen = units(truth, *[f"z.1.{h}" for h in range(6)])
    for one in matched_sets(head_units(truth), chosen, 9):
        assert {"z.1.6", "z.1.7"} <= {unit.name for unit in one} and len(one) == 6
    with pytest.raises(BadRanking, match="test fewer"):
        matched_sets(head_units(truth), head_units(truth)[:12], 9)


def test_corrections_are_the_published_ones():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])


def test_sign_flips_find_what_is_there_and_only_that():
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(16, 400))
    shifted = np.concatenate([noise, draw.normal(size=(16, 1)) + 3], 1)
    p = sign_flip_p(shifted)
    assert p[-1] < 0.001 and abs((p[:-1] < 0.1).mean() - 0.1) < 0.05
    assert (holm(p)[:-1] < 0.05).sum() <= 1 and holm(p)[-1] < 0.05
    assert sign_flip_p(np.zeros((5, 2))) == pytest.approx(1.0)


def test_sign_flips_of_questions_on_one_prompt_turn_together():
    draw = np.random.default_rng(0)
    shared = np.repeat(draw.normal(size=(10, 500)), 4, axis=0) + draw.normal(size=(40, 500))
    prompts = np.repeat(np.arange(10), 4).tolist()
    assert abs((sign_flip_p(shared, prompts, flips=2000) < 0.1).mean() - 0.1) < 0.05
    assert (sign_flip_p(shared, flips=2000) < 0.1).mean() > 0.2, "40 questions on 10 prompts are not 40"


def test_one_by_one_finds_the_heads_that_matter_alone(truth, asked):
    found = one_by_one(Ablator(truth), asked, head_units(truth))
    drop = dict(zip(found.units, found.drop.mean(0), strict=True))
    sure = {name for name, p in zip(found.units, found.holm, strict=True) if p < 0.05 and abs(drop[name]) > 0.5}
    assert sure == {str(PREVIOUS), str(INTERFERING)} and drop[str(INTERFERING)] < 0 < drop[str(PREVIOUS)]
    assert (found.p <= found.bh + 1e-12).all() and (found.bh <= found.holm + 1e-12).all()


def test_curves_fall_where_the_truth_says(truth, asked):
    universe = head_units(truth)
    order = units(truth, PREVIOUS, INDUCTION, BACKUP, *IDLE[:3])
    without, alone = curves(Ablator(truth), asked, order, universe, (0, 1, 2, 3), random=5)
    assert without.mean[1] < 0.1 < without.mean[0] and abs(alone.mean[1]) < 0.1
    assert alone.mean[2] > without.mean[0], "two heads do it, and nothing interferes"
    assert without.control.shape == (4, 5)
    low, high = without.interval
    assert (low <= without.mean + 1e-6).all() and (without.mean <= high + 1e-6).all()
    with pytest.raises(BadRanking, match="sizes"):
        curves(Ablator(truth), asked, order, universe, (0, 99))


def test_the_heads_of_one_task_on_another(truth, asked):
    alike = questions(8, seed=7)
    found = specificity([Ablator(truth)] * 2, [asked, alike], [units(truth, PREVIOUS), units(truth, IDLE[0])])
    assert found.shape == (2, 2) and found[0].min() > 0.9 and abs(found[1]).max() < 0.05
    never = [Question(q.clean, q.wrong, None, q.target) for q in asked]
    with pytest.raises(BadQuestion, match="does not do it"):
        specificity([Ablator(truth)], [never], [units(truth, PREVIOUS)])


def test_off_target_cost_is_zero_for_nothing_and_larger_for_more(truth, asked):
    texts = [question.clean for question in asked]
    sets = [units(truth, PREVIOUS), [], units(truth, IDLE[0])]
    found = off_target(Ablator(truth), texts, sets)
    assert found.random[0] == 0 and found.mean.mean > 50 * found.random[1] > 0
    assert found.tokens == sum(len(text) - 1 for text in texts) and found.p95 <= found.max
    with pytest.raises(BadQuestion, match="neutral"):
        off_target(Ablator(truth, Operator("corrupted")), texts, sets)


def test_a_direction_splits_into_what_is_read_and_what_is_not(truth):
    weight = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    vector = torch.randn(8, generator=torch.Generator().manual_seed(1))
    row, null = split(vector, weight)
    torch.testing.assert_close(row + null, vector)
    assert (null @ weight).abs().max() < 1e-5 and abs(float(row @ null)) < 1e-5
    torch.testing.assert_close(split(row, weight)[0], row)


def test_the_null_part_of_a_direction_does_nothing(truth, asked):
    """The projection behind z reads the first VOCAB numbers of the induction head; the last one goes nowhere."""
    vector = torch.zeros(96)
    start = 3 * 12
    vector[start : start + 10] = torch.randn(10, generator=torch.Generator().manual_seed(2))
    vector[start + 11] = 2.0
    found = diagnose(truth, asked, Site("z", 1), vector)
    assert found.norms["null"] > 0.1 and found.effects["null"].drop.mean == pytest.approx(0, abs=1e-4)
    assert found.effects["component"].share > 0.9 and found.effects["component"].flipped == 1
    assert 0 <= found.variance <= 1 and -1 <= found.difference <= 1
    with pytest.raises(BadSite, match="reader"):
        diagnose(truth, asked, Site("resid_post", 1), vector)


def test_suspicion_needs_an_effect_that_neither_part_explains():
    strong, none = (PatchEffect(Interval(x, x - 0.1, x + 0.1, 9), x, 0.0) for x in (2.0, 0.0))
    assert suspicion({"direction": strong, "row": none, "null": none, "component": strong})
    assert suspicion({"direction": strong, "row": strong, "null": none, "component": none})
    assert not suspicion({"direction": strong, "row": strong, "null": none, "component": strong})
    assert not suspicion({"direction": none, "row": none, "null": none, "component": none})


def test_a_plan_of_heads_scales_them_and_refuses_the_rest(truth, asked):
    plan = head_plan(truth, [INDUCTION, PREVIOUS])
    assert [step.site for step in plan.interventions] == [INDUCTION, PREVIOUS]
    np.testing.assert_allclose(plan_metric(truth, asked, plan.scaled(0)), plan_metric(truth, asked, None), atol=1e-5)
    off = plan_metric(truth, asked, plan.scaled(-1))
    np.testing.assert_allclose(off, Ablator(truth).metrics(asked, [units(truth, INDUCTION, PREVIOUS)])[0], atol=1e-4)
    with pytest.raises(BadRanking, match="not a head"):
        head_plan(truth, [Site("mlp_out", 1)])


def test_a_shift_towards_the_clean_side_helps_the_answer(truth):
    one = questions(12)[:1] * 4
    plan = head_plan(truth, [INDUCTION], "shift", one)
    assert (plan_metric(truth, one, plan) > plan_metric(truth, one, None) + 0.5).all()


def test_top_heads_beat_random_heads_at_the_same_price(truth, asked):
    texts = [q.clean.followed_by(q.target) for q in asked]
    calibration = Calibration(Scorer(truth.model), texts, on="forced")
    plan, found = judge_heads(calibration, asked, units(truth, INDUCTION), head_units(truth), 0.02, random=6)
    assert found.dose.reachable and found.gain.low > 0
    assert len(found.random) + found.unreached == 6
    assert plan.interventions[0].strength == pytest.approx(found.dose.strength)
