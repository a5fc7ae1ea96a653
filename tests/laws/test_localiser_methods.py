"""What each localiser claims of itself: exact where it says so, first-order where it says so, and the special cases."""

import copy

import numpy as np
import pytest
import torch

from trimtab.steering.causal.gradients import estimates, products, slopes
from trimtab.steering.causal.head_scales import ablated_heads, scaled_heads, scaled_logprobs, scales_of_one
from trimtab.steering.causal.patching import Patch, activations, patched, whole_sites
from trimtab.steering.causal.question import Batch, Question
from trimtab.steering.causal.relevance import relevance_rules
from trimtab.steering.errors import BadQuestion, BadRanking, SilentNoOp, UnknownName, UnsupportedModel
from trimtab.steering.localisers._gate_fit import Stage, fit_gates, start
from trimtab.steering.localisers._query_key import key_effects, query_effects
from trimtab.steering.localisers._toggling import toggle_curves
from trimtab.steering.localisers.activation_patching import ActivationPatching
from trimtab.steering.localisers.atp_star import AtPStar
from trimtab.steering.localisers.attention_sink import AttentionSink
from trimtab.steering.localisers.attribution_patching import AttributionPatching
from trimtab.steering.localisers.base import heads, mlps
from trimtab.steering.localisers.causal_head_gating import ROLES, CausalHeadGating, roles
from trimtab.steering.localisers.direct_logit import centred, contributions
from trimtab.steering.localisers.head_scaling import HeadScaling
from trimtab.steering.localisers.indirect_effect import IndirectEffect
from trimtab.steering.localisers.relp import RelP
from trimtab.steering.localisers.retrieval import Retrieval
from trimtab.steering.localisers.ships import Ships, angle
from trimtab.steering.localisers.successor import _own_maps
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.attention import attending
from trimtab.steering.model.frozen import frozen
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Role, Tokens

CPU = torch.device("cpu")
FEW = ["llama", "gpt2", "gemma2", "qwen3", "mistral"]
WITHOUT_BIAS = ["llama/plain", "qwen3", "olmo2", "gemma3_text", "cohere", "phi3"]
EVERY = ("norm", "activation", "half", "attention")


def text(*ids: int) -> Tokens:
    array = np.array(ids)
    return Tokens(array, len(ids), np.full(len(ids), Role.TEXT, np.uint8), np.zeros(len(ids), bool))


QUESTIONS = (
    Question(text(7, 3, 52, 11, 30), (4,), text(7, 3, 50, 11, 30), (33,)),
    Question(text(8, 3, 52, 11, 30, 22, 1), (5,), text(8, 3, 40, 12, 30, 22, 1), (33,)),
)
PAIR = range(2)


@pytest.fixture(params=FEW)
def anatomy(request, build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny(request.param))


@pytest.fixture(params=WITHOUT_BIAS)
def plain(request, build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny(request.param))


@pytest.fixture(scope="module")
def llama(build_tiny) -> Anatomy:
    return Anatomy.of(build_tiny("llama"))


def relevance(anatomy: Anatomy, site: Site, rules: tuple[str, ...]):
    found = slopes(anatomy, Batch.of(QUESTIONS, PAIR, CPU), [site], surgery=relevance_rules(anatomy, rules))
    return (found.values[site] * found.slopes[site]).sum((1, 2)), found.metric


# Activation and attribution patching


def test_patching_every_head_alone_is_zero_gates_one_by_one(anatomy):
    """Two code paths: `Patch` with zeros, and gates."""
    got = ActivationPatching("noising", "zero").rank(anatomy, QUESTIONS).only("z")
    n = len(got.units)
    gates = 1 - torch.eye(n).reshape(n, anatomy.n_layers, anatomy.n_heads)
    batch = Batch.of(QUESTIONS, PAIR, CPU).tiled(n)
    with torch.no_grad(), scaled_heads(anatomy, gates.repeat_interleave(2, 0)):
        left = batch.metric(batch.logits(anatomy.model)).reshape(n, 2)
    want = got.extra["clean"] - left.numpy()
    np.testing.assert_allclose(got.values, want.mean(1), atol=2e-5)


def test_patching_the_last_block_s_whole_stream_brings_everything_back(llama):
    """Head by head it is not so; all of resid_post at once must be."""
    batch, site = Batch.of(QUESTIONS, PAIR, CPU), Site("resid_post", llama.n_layers - 1)
    clean, logits = activations(llama, batch, [site])
    got = patched(llama, batch, [site], Patch(clean, "corrupted"))
    torch.testing.assert_close(got[0], batch.metric(logits))


def test_attribution_is_patching_in_the_limit_of_small_changes(anatomy):
    """The estimate's relative error falls in step with the change (in float64; norms round to float32 all the same)."""
    wide = Anatomy.of(copy.deepcopy(anatomy.model).double())
    batch, units = Batch.of(QUESTIONS, PAIR, CPU), (*heads(wide), *mlps(wide))
    sites = whole_sites(units)
    here = slopes(wide, batch, sites, "corrupted")
    clean, _ = activations(wide, batch, sites)
    errors = []
    for step in (1e-1, 1e-2):
        values = {site: here.values[site] + step * (clean[site] - here.values[site]) for site in sites}
        true = patched(wide, batch, units, Patch(values, "corrupted")) - here.metric
        gaps = {site: values[site] - here.values[site] for site in sites}
        errors.append(((products(wide, units, gaps, here.slopes) - true).norm() / true.norm()).item())
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.1, errors


def test_attribution_is_patching_where_the_rest_of_the_model_is_linear(plain):
    """The last MLP's output is followed by the final norm alone; frozen, that is linear, and patching it is exact."""
    batch, unit = Batch.of(QUESTIONS, PAIR, CPU), Site("mlp_out", plain.n_layers - 1)
    got = estimates(plain, batch, [unit], surgery=relevance_rules(plain, ("norm",)))
    clean, _ = activations(plain, batch, [unit])
    dirty, _ = activations(plain, batch, [unit, Site("resid_post", plain.n_layers - 1)], "corrupted")
    scale = _frozen_final(plain, batch, dirty[Site("resid_post", plain.n_layers - 1)])
    want = scale(clean[unit]) - scale(dirty[unit])
    torch.testing.assert_close(got[0], want, rtol=1e-3, atol=1e-4)


def _frozen_final(anatomy: Anatomy, batch: Batch, stream: torch.Tensor):
    """The metric as a linear map of what is added to the last residual: the final norm as a fixed matrix, by hand."""
    final = anatomy.final_norm
    rows = torch.arange(batch.rows)
    ends = stream[rows, batch.last]
    centre = 1.0 if type(final).__name__ == "CohereLayerNorm" else 0.0
    basis = torch.eye(ends.shape[-1])
    with torch.no_grad():
        # norm(x) = D(x) (x - centre * mean): the diagonal D read off the norm's own answer.
        diagonal = final(ends) / (ends - centre * ends.mean(-1, keepdim=True))
        head = anatomy.model.get_output_embeddings().weight
        direction = head[batch.target[:2]] - head[batch.wrong]
    mixing = basis - centre / len(basis)

    def value(added: torch.Tensor) -> torch.Tensor:
        return ((added[rows, batch.last] @ mixing) * diagonal * direction).sum(-1)

    return value


def test_noising_and_denoising_are_refused_where_they_make_no_sense():
    with pytest.raises(BadQuestion, match="for noising only"):
        ActivationPatching("denoising", "zero")
    with pytest.raises(BadQuestion, match="direction 'up'"):
        ActivationPatching("up")
    with pytest.raises(BadQuestion, match="direction is 'up'"):
        AttributionPatching("up")


# AtP*


def pattern_of(query, key, mask):
    return (query @ key.mT + mask).softmax(-1)


def test_the_key_form_is_brute_force_and_so_is_the_query_form():
    draw = torch.Generator().manual_seed(0)
    q, k, q2, k2 = (torch.randn(2, 3, 7, 4, generator=draw, dtype=torch.float64) * 2 for _ in range(4))
    slope = torch.randn(2, 3, 7, 7, generator=draw, dtype=torch.float64)
    mask = torch.full((7, 7), -1e30, dtype=torch.float64).triu(1)
    pattern = pattern_of(q, k, mask)
    shift = (q @ (k2 - k).mT).masked_fill(mask < 0, 0.0)
    got_k, got_q = key_effects(pattern, shift, slope), query_effects(pattern, pattern_of(q2, k, mask), slope)
    for t in range(7):
        one_k, one_q = k.clone(), q.clone()
        one_k[:, :, t], one_q[:, :, t] = k2[:, :, t], q2[:, :, t]
        want = ((pattern_of(q, one_k, mask) - pattern) * slope).sum((-1, -2))
        torch.testing.assert_close(got_k[..., t], want, rtol=1e-10, atol=1e-12)
        want = ((pattern_of(one_q, k, mask) - pattern) * slope).sum((-1, -2))
        torch.testing.assert_close(got_q[..., t], want, rtol=1e-10, atol=1e-12)


def test_a_saturated_softmax_hides_a_key_from_the_gradient_and_not_from_the_exact_form():
    """The false negative the QK fix exists for."""
    scores = torch.tensor([[[[30.0, 0.0]]]])
    pattern, slope = scores.softmax(-1), torch.tensor([[[[0.0, 1.0]]]])
    shift = torch.tensor([[[[0.0, 40.0]]]])
    linear = (pattern * (slope - (pattern * slope).sum(-1, keepdim=True)) * shift).sum()
    assert linear < 1e-6 and key_effects(pattern, shift, slope)[0, 0, 1] > 0.99


def test_nodes_with_no_block_behind_them_are_those_of_attribution_patching(anatomy):
    """Dropping other blocks' gradients cannot touch the last block's nodes."""
    star = AtPStar().rank(anatomy, QUESTIONS)
    plain = AttributionPatching().rank(anatomy, QUESTIONS)
    last = Site("mlp_out", anatomy.n_layers - 1)
    np.testing.assert_allclose(star.value(last), np.abs(plain.extra["per_question"]).mean(0)[-1], rtol=1e-3, atol=1e-5)


def test_dropping_gradients_is_removing_what_flows_through_one_block(llama):
    """By hand: slopes with one block's writes cut off from its inputs, for two blocks of three."""
    batch, unit = Batch.of(QUESTIONS, PAIR, CPU), Site("mlp_out", 0)
    gap = _gap(llama, batch, unit)
    sizes = []
    for block in (1, 2):
        with frozen(llama.model):
            found = _slope_without(llama, batch, unit, block)
        sizes.append((gap * found).sum((1, 2)).abs())
    got = AtPStar().rank(llama, QUESTIONS).extra["per_question"][:, len(heads(llama))]
    np.testing.assert_allclose(got, (sum(sizes) / 2).numpy(), rtol=1e-3)


def _gap(anatomy, batch, unit):
    clean, dirty = (activations(anatomy, batch, [unit], side)[0][unit] for side in ("clean", "corrupted"))
    return clean - dirty


def _slope_without(anatomy, batch, unit, block):
    from_here = [m.register_forward_hook(lambda _, __, out: _detached(out)) for m in (
        anatomy.place(Site("attn_out", block)).module, anatomy.place(Site("mlp_out", block)).module)]  # fmt: skip
    try:
        return slopes(anatomy, batch, [unit], "corrupted").slopes[unit]
    finally:
        for handle in from_here:
            handle.remove()


def _detached(out):
    return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()


# RelP


def test_relevance_rules_leave_the_forward_pass_unchanged_to_the_bit(tiny):
    anatomy, batch = Anatomy.of(tiny), Batch.of(QUESTIONS, PAIR, CPU)
    rules = ("norm", "activation", "half") if anatomy.family.down_proj else ("norm", "activation")
    with frozen(tiny):
        want = batch.logits(tiny)
        with relevance_rules(anatomy, rules):
            assert torch.equal(batch.logits(tiny), want)


def test_relevance_at_the_embedding_is_the_metric_where_nothing_leaks(plain):
    """Conservation: without biases every rule together shares the logit difference out among the tokens, exactly."""
    got, want = relevance(plain, Site("embed"), EVERY)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    leaking, _ = relevance(plain, Site("embed"), ())
    assert not torch.allclose(leaking, want, rtol=0.05), "else conservation shows nothing"


@pytest.mark.parametrize("rule", ["norm", "activation", "half", "attention"])
def test_no_rule_can_be_missing_from_conservation(build_tiny, rule):
    """Each rule is active: without it relevance leaks (RelP's released demo lost one silently)."""
    plain = Anatomy.of(build_tiny("llama/plain"))
    got, want = relevance(plain, Site("embed"), tuple(r for r in EVERY if r != rule))
    assert not torch.allclose(got, want, rtol=0.02)


def test_the_slope_of_an_activation_is_its_value_over_its_input(anatomy):
    module, seen = anatomy.activation_functions[0], {}
    handle = module.register_forward_pre_hook(lambda _, args: seen.__setitem__("x", args[0]))
    try:
        with frozen(anatomy.model), relevance_rules(anatomy, ("activation",)):
            Batch.of(QUESTIONS, PAIR, CPU).logits(anatomy.model)
            x = seen["x"].detach().clone().requires_grad_()
            y = module(x)
            (slope,) = torch.autograd.grad(y.sum(), [x])
    finally:
        handle.remove()
    torch.testing.assert_close(slope, (y / x).detach(), rtol=1e-4, atol=1e-5)


def test_half_the_relevance_goes_to_each_factor(llama):
    before, after = (_slopes_of_factors(llama, rules) for rules in ((), ("half",)))
    for whole, half in zip(before, after, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(half, whole / 2)


def _slopes_of_factors(anatomy, rules):
    """Derivatives by the outputs of the last MLP's two projections, act(gate) and up being what is multiplied."""
    mlp, held = anatomy.blocks[-1].mlp, []
    handles = [m.register_forward_hook(lambda _, __, out: held.append(out)) for m in (mlp.act_fn, mlp.up_proj)]
    try:
        batch = Batch.of(QUESTIONS, PAIR, CPU)
        with (
            frozen(anatomy.model),
            scaled_heads(anatomy, scales_of_one(anatomy).requires_grad_()),
            relevance_rules(anatomy, rules),
        ):
            metric = batch.metric(batch.logits(anatomy.model)).sum()
        return torch.autograd.grad(metric, held)
    finally:
        for handle in handles:
            handle.remove()


def test_no_gradient_reaches_the_pattern_under_the_attention_rule(llama):
    leaves = []

    def leaf(look):
        leaves.append(look.query.detach().clone().requires_grad_())
        scores = look.scores(leaves[-1], look.key)
        return scores.softmax(-1)

    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with frozen(llama.model), attending(llama, leaf):
        metric = batch.metric(batch.logits(llama.model)).sum()
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(metric, leaves))
    site = Site("resid_pre", 2)
    through = slopes(llama, batch, [site]).slopes[site]
    constant = slopes(llama, batch, [site], surgery=relevance_rules(llama, ("attention",))).slopes[site]
    assert not torch.allclose(through, constant, rtol=0.01)


def test_without_rules_relp_is_attribution_patching(anatomy):
    got, want = RelP(rules=()).rank(anatomy, QUESTIONS), AttributionPatching().rank(anatomy, QUESTIONS)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-5, atol=1e-6)


def test_rules_that_cannot_or_did_not_act_are_errors(llama, build_tiny):
    with pytest.raises(SilentNoOp, match="norm, half never acted"), relevance_rules(llama, ("norm", "half")):
        pass
    with pytest.raises(UnknownName, match="did you mean 'norm'"), relevance_rules(llama, ("norms",)):
        pass
    experts = Anatomy.of(build_tiny("mixtral"))
    with pytest.raises(UnsupportedModel, match="routes tokens to experts"), relevance_rules(experts, ("half",)):
        pass


# Direct logit attribution


def summed(model) -> Anatomy:
    """A copy in which heads, MLPs and the embedding are all there is to sum: no biases, no position vectors. Its logits
    are large enough for a soft cap to bend them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "wpe" in name or "embed_positions" in name:
                parameter.zero_()
        model.get_output_embeddings().weight.mul_(20)
    return Anatomy.of(model)


def unembedded(batch: Batch, model) -> torch.Tensor:
    """Where answers are decided, what the unembedding itself gives."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        batch.logits(model)
    handle.remove()
    return seen[0][batch.row, torch.unique(batch.column, return_inverse=True)[1]]


def test_direct_contributions_add_up_to_the_metric(tiny):
    """With and without a wrong answer, before any soft cap; what a cap leaves is another number."""
    anatomy = summed(tiny)
    capped = anatomy.text_config.to_dict().get("final_logit_softcapping")
    units = (*heads(anatomy), *mlps(anatomy), Site("embed"))
    for questions in (QUESTIONS, [Question(q.clean, (*q.target, 9)) for q in QUESTIONS]):
        batch = Batch.of(questions, PAIR, CPU)
        want = centred(batch, unembedded(batch, anatomy.model))
        torch.testing.assert_close(contributions(anatomy, batch, units).sum(0), want, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            after = centred(batch, batch.logits(anatomy.model))
        assert bool(capped) != torch.allclose(after, want, rtol=0.01)


def test_a_direct_contribution_is_the_projection_through_the_frozen_norm(build_tiny):
    llama = Anatomy.of(build_tiny("llama/plain"))
    batch, last = Batch.of(QUESTIONS, PAIR, CPU), Site("resid_post", 2)
    seen, _ = activations(llama, batch, [Site("z", 1), last])
    rows = torch.arange(2)
    z, stream = seen[Site("z", 1)][rows, batch.last], seen[last][rows, batch.last]
    weight = out_weight(llama.place(Site("z", 1)).module)[llama.d_head : 2 * llama.d_head]
    final, head = llama.model.model.norm, llama.model.lm_head.weight
    scale = torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + final.variance_epsilon)
    wrote = (z[:, llama.d_head : 2 * llama.d_head] @ weight) * scale * final.weight
    want = (wrote * (head[batch.target[:2]] - head[batch.wrong])).sum(-1)
    torch.testing.assert_close(contributions(llama, batch, [Site("z", 1, 1)])[0], want.detach(), rtol=1e-4, atol=1e-5)


# Indirect effect


def test_for_one_question_the_indirect_effect_is_denoising_at_the_last_token(anatomy):
    one = QUESTIONS[:1]
    batch, units = Batch.of(one, [0], CPU), heads(anatomy)
    clean, _ = activations(anatomy, batch, whole_sites(units))
    _, logits = activations(anatomy, batch, (), "corrupted")
    want = patched(anatomy, batch, units, Patch(clean, "corrupted", last_only=True)) - batch.metric(logits)
    got = IndirectEffect(measure="metric").rank(anatomy, one)
    np.testing.assert_allclose(got.values, want[:, 0].numpy(), atol=1e-5)
    assert got.extra["mean_output"].shape == (len(units), anatomy.d_head)


# SHIPS and Sahara


def test_a_prompt_of_one_token_has_uniform_attention_already(anatomy):
    one = [Question(text(7), (4,))]
    np.testing.assert_allclose(Ships().rank(anatomy, one).values, 0, atol=1e-6)
    assert Ships(operator="zero").rank(anatomy, one).values.min() > 0


def test_uniform_attention_averages_the_values_a_query_may_see(anatomy):
    """z of an ablated head is the mean of its values; of a head that is left alone it is as it was. The sliding window
    of mistral counts as what may be seen."""
    batch, site = Batch.of(QUESTIONS, PAIR, CPU), Site("z", 0)
    chosen = torch.zeros(1, anatomy.n_layers, anatomy.n_heads, dtype=torch.bool)
    chosen[:, 0, 2] = True
    looks = {}
    with torch.no_grad(), attending(anatomy, lambda look: looks.__setitem__(look.block, look)):
        before, _ = activations(anatomy, batch, [site])
    with ablated_heads(anatomy, chosen, "uniform"):
        after, _ = activations(anatomy, batch, [site])
    seen = (looks[0].mask[0, 0] == 0).float() if looks[0].mask.shape[0] == 1 else (looks[0].mask[:, 0] == 0).float()
    want = (seen / seen.sum(-1, keepdim=True)) @ looks[0].value[:, 2]
    d = anatomy.d_head
    torch.testing.assert_close(after[site][..., 2 * d : 3 * d], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[site][..., : 2 * d], before[site][..., : 2 * d], rtol=1e-4, atol=1e-5)


def test_sahara_starts_with_the_best_head_and_takes_none_twice(llama):
    ships = Ships(form="dataset", operator="zero")
    found = ships.sahara(llama, QUESTIONS, 3)
    assert found[0][0] == ships.rank(llama, QUESTIONS).top(1)[0] and len({unit for unit, _ in found}) == 3
    alone = torch.zeros(1, llama.n_layers, llama.n_heads, dtype=torch.bool)
    for unit, _ in found[:2]:
        alone[0, unit.block, unit.head] = True
    state = ships._states(llama, QUESTIONS, torch.cat([torch.zeros_like(alone), alone]))
    assert found[1][1] == pytest.approx(angle(state[0], state[1]), abs=1e-3)


def test_an_angle_is_the_principal_angle():
    first, turn = np.diag([3.0, 1, 0.5]), np.radians(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    assert angle(first, rotation @ first) == pytest.approx(30)
    assert angle(first, first @ rotation) == pytest.approx(0, abs=1e-5), "the space of features may turn"
    assert angle(first, rotation @ first, 3) == pytest.approx(0, abs=1e-4), "the whole space turned into itself"


# Attention, read


def test_sinks_and_retrieval_are_read_off_the_pattern(anatomy):
    """By hand from the same model run with its own eager attention."""
    question = Question(text(7, 3, 52, 11, 30), (52,))
    config, model = anatomy.text_config, anatomy.model
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            run = model(input_ids=torch.tensor(question.clean.ids)[None], output_attentions=True)
    finally:
        config._attn_implementation = before
    patterns = torch.stack(run.attentions)[:, 0]  # [layers heads s s]
    sink = AttentionSink().rank(anatomy, [question]).grid()
    np.testing.assert_allclose(sink, patterns[:, :, 1:, 0].mean(-1).numpy(), rtol=1e-4, atol=1e-6)
    copied = Retrieval().rank(anatomy, [question]).grid()
    np.testing.assert_array_equal(copied, (patterns[:, :, -1].argmax(-1) == 2).float().numpy())
    with pytest.raises(BadQuestion, match="nothing to copy"):
        Retrieval().rank(anatomy, [Question(question.clean, (44,))])


def test_a_successor_map_is_the_product_of_the_weights(build_tiny):
    """MLP_0 of the embedding, the block's norm, W_V W_O of the head, the final norm, W_U: by hand, grouped heads."""
    model = build_tiny("llama/plain")
    anatomy, base = Anatomy.of(model), model.model
    given, answers = torch.tensor([5, 17, 23]), torch.tensor([6, 18, 24, 40])
    got = _own_maps(anatomy, given, answers).reshape(3, 4, 3, 4)
    with torch.no_grad():
        early = base.layers[0].mlp(base.layers[0].post_attention_layernorm(base.embed_tokens(given)))
        for block, head in ((1, 0), (2, 3)):
            attention = base.layers[block].self_attn
            values = attention.v_proj(base.layers[block].input_layernorm(early))
            d, group = anatomy.d_head, head // 2
            z = values[:, group * d : (group + 1) * d]
            write = z @ attention.o_proj.weight[:, head * d : (head + 1) * d].T
            want = base.norm(write) @ model.lm_head.weight[answers].T
            torch.testing.assert_close(got[block, head], want, rtol=1e-4, atol=1e-5)


def test_patching_can_rank_other_points(llama):
    ranking = ActivationPatching(points=("resid_post", "attn_out")).rank(llama, QUESTIONS)
    assert [str(u) for u in ranking.units][:4] == ["resid_post.0", "resid_post.1", "resid_post.2", "attn_out.0"]
    gap = ranking.extra["clean"].mean() - ranking.extra["corrupted"].mean()
    assert ranking.value(Site("resid_post", 2)) == pytest.approx(gap, abs=1e-4), "the whole stream brings all back"


def test_scaling_a_head_by_zero_is_zero_ablation(llama):
    got = HeadScaling(factors=(0.0, 1.5)).rank(llama, QUESTIONS)
    want = ActivationPatching("noising", "zero").rank(llama, QUESTIONS).only("z")
    np.testing.assert_allclose(got.values, -want.values, rtol=1e-3, atol=1e-5)
    small = HeadScaling(factors=(1.01,)).rank(llama, QUESTIONS)
    gates = scales_of_one(llama).requires_grad_()
    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with frozen(llama.model), scaled_heads(llama, gates):
        batch.metric(batch.logits(llama.model)).mean().backward()
    np.testing.assert_allclose(small.values, 0.01 * gates.grad.flatten().numpy(), rtol=0.1, atol=1e-4)
    with pytest.raises(BadQuestion, match="not 1, which changes nothing"):
        HeadScaling(factors=(1.0,))


# Causal head gating


def test_roles_are_read_off_both_gates():
    plus, minus = np.array([0.9, 0.1, 0.9, 0.1, 0.5]), np.array([0.9, 0.1, 0.1, 0.9, 0.49])
    assert [ROLES[k] for k in roles(plus, minus)] == [
        "facilitating", "interfering", "irrelevant", "inconsistent", "irrelevant",
    ]  # fmt: skip


def test_seeds_together_are_seeds_alone_and_start_apart(llama):
    few = {"steps": 4, "questions_per_step": 2}
    both = CausalHeadGating(seeds=3, **few).rank(llama, QUESTIONS)
    alone = CausalHeadGating(seeds=1, seed=2, **few).rank(llama, QUESTIONS)
    np.testing.assert_allclose(alone.extra["g_plus"][0], both.extra["g_plus"][2], atol=1e-3)
    assert np.abs(both.extra["g0"][0] - both.extra["g0"][1]).max() > 0.2


def test_the_nudge_moves_gates_that_do_nothing_to_both_ends_of_the_clip():
    """Without a loss: lambda > 0 drives gates to 1, lambda < 0 to 0, and no further than where theta is clipped and
    Adam's momentum carries it (a sum of 0.9^k, so ten steps of 0.5)."""
    theta = start((2, 2, 3), 0)
    for nudge, end in ((0.1, 4.0), (-0.1, -4.0)):
        moved, _ = fit_gates(theta, lambda g, _: 0 * g.sum((1, 2)), Stage(200, (0.5, 0.05), nudge))
        assert (moved * np.sign(end) > 3.5).all() and (moved * np.sign(end) < 4 + 10 * 0.5).all()
    assert torch.equal(theta, start((2, 2, 3), 0)), "the given gates are not changed"


@pytest.mark.parametrize(("nudge", "end"), [(0.1, 1), (-0.1, -1)])
def test_a_gate_far_on_the_wrong_side_is_brought_back_unless_there_is_a_dead_zone(nudge, end):
    """The published clip leaves it where an earlier stage put it, and its role is then nobody's measurement."""
    lost = torch.full((1, 1, 2), -6.0 * end)

    def nothing(gates, _):
        return 0 * gates.sum((1, 2))

    found, stuck = (fit_gates(lost, nothing, Stage(200, (0.5, 0.05), nudge, dead_zone=z))[0] for z in (False, True))
    assert (found * end > 3.5).all() and torch.equal(stuck, lost)


def test_each_seed_s_gradient_is_clipped_by_itself():
    """A seed with a huge loss must not slow its neighbours."""

    def loss(gates, _):
        weights = torch.tensor([1e-3, 1e3])[: len(gates)]
        return (gates - 0.2).pow(2).sum((1, 2)) * weights

    together, _ = fit_gates(start((2, 2, 2), 0), loss, Stage(5, (0.1, 0.1)))
    alone, _ = fit_gates(start((1, 2, 2), 0), loss, Stage(5, (0.1, 0.1)))
    torch.testing.assert_close(together[:1], alone)


@pytest.fixture(scope="module")
def known(build_tiny):
    """A model whose heads 0.0 and 1.1 write nothing, and its ranking. The answers are the model's own, so that no head
    can be expected to interfere much."""
    model = copy.deepcopy(build_tiny("llama/plain"))
    anatomy = Anatomy.of(model)
    d = anatomy.d_head
    with torch.no_grad():
        for block, head in ((0, 0), (1, 1)):
            anatomy.place(Site("z", block)).module.weight[:, head * d : (head + 1) * d] = 0
        prompts = [text(7, 3, 52, 11, 30), text(8, 3, 41, 11), text(17, 4, 23), text(9, 9, 14, 6)]
        questions = [Question(p, (int(model(torch.tensor(p.ids)[None]).logits[0, -1].argmax()),)) for p in prompts]
    method = CausalHeadGating(seeds=3, steps=60, nudge=0.3, questions_per_step=4)
    return anatomy, questions, method.rank(anatomy, questions)


def test_heads_that_write_nothing_are_irrelevant_in_every_seed(known):
    _, _, ranking = known
    for unit in (Site("z", 0, 0), Site("z", 1, 1)):
        k = ranking.units.index(unit)
        assert ranking.extra["frequency"][:, k].tolist() == [0, 0, 1, 0]
    assert set(ranking.labels) & {"facilitating"}, "else everything is irrelevant"


def test_gates_fit_the_answers_and_toggling_tells_roles_apart(known):
    anatomy, questions, ranking = known
    nll = ranking.extra["nll"]
    assert nll[0, -1].max() < nll[0, 0].min()
    curves = {c.score: c for c in toggle_curves(anatomy, ranking, questions, (1, 2))}
    assert curves["facilitation"].mean[-1] < -0.05
    assert abs(curves["irrelevance"].mean[0]) < 1e-5, "a head that writes nothing is the most irrelevant"
    assert curves["interference"].mean[-1] > curves["facilitation"].mean[-1]
    with pytest.raises(BadRanking, match="99 heads cannot be toggled"):
        toggle_curves(anatomy, ranking, questions, (99,))


def test_a_seed_that_did_not_fit_is_kept_but_does_not_count(known):
    """One update from random gates leaves some seeds far above the model's own loss."""
    anatomy, questions, _ = known
    short = {"seeds": 4, "steps": 1, "questions_per_step": 4}
    loose = CausalHeadGating(**short, slack=99.0).rank(anatomy, questions)
    assert loose.extra["fitted"].all() and loose.extra["open_nll"] > 0
    ends = loose.extra["nll"][0, -1] - loose.extra["open_nll"]
    strict = CausalHeadGating(**short, slack=float(np.median(ends))).rank(anatomy, questions)
    kept = strict.extra["fitted"].astype(bool)
    assert 0 < kept.sum() < 4 and np.array_equal(kept, ends <= np.median(ends))
    np.testing.assert_allclose(strict.values, strict.extra["g_minus"][kept].mean(0), rtol=1e-6)
    none = CausalHeadGating(**short, slack=-99.0).rank(anatomy, questions)
    assert not none.extra["fitted"].any() and np.array_equal(none.values, loose.values)


def test_toggling_needs_fitted_gates(llama):
    with pytest.raises(BadRanking, match=r"gates of causal_head_gating; this ranking is by relp"):
        toggle_curves(llama, RelP().rank(llama, QUESTIONS), QUESTIONS, (1,))


def test_gated_log_probabilities_come_in_the_questions_order(llama):
    gates = torch.stack([scales_of_one(llama)[0], 0 * scales_of_one(llama)[0]])
    got = scaled_logprobs(llama, gates, QUESTIONS, budget=8)
    batch = Batch.of(QUESTIONS, PAIR, CPU)
    with torch.no_grad():
        np.testing.assert_allclose(got[0], batch.logprob(batch.logits(llama.model)).numpy(), rtol=1e-4)
    assert np.abs(got[1] - got[0]).min() > 1e-3


def test_contrastive_gates_keep_one_answer_and_lose_the_other(llama):
    keep = [Question(q.clean, (11,)) for q in QUESTIONS]
    lose = [Question(q.clean, (44,)) for q in QUESTIONS]
    method = CausalHeadGating(seeds=2, steps=60, questions_per_step=2)
    ranking = method.contrast(llama, keep, lose, nudge=0.1)
    gates = torch.from_numpy(ranking.extra["gates"]).reshape(2, llama.n_layers, llama.n_heads)
    margin = scaled_logprobs(llama, gates, keep) - scaled_logprobs(llama, gates, lose)
    plain = scaled_logprobs(llama, scales_of_one(llama), keep) - scaled_logprobs(llama, scales_of_one(llama), lose)
    assert (margin.mean(1) > plain.mean(1) + 0.5).all() and ranking.settings["nudge"] == 0.1
    with pytest.raises(BadQuestion, match="each needs its partner"):
        method.contrast(llama, keep, lose[:1], nudge=0.1)
