"""Laws of gates: a closed one is the identity to the bit, an open one the move itself; rows decide for themselves, on
the clean prompt, whatever the caching, padding and block."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from trimtab.steering.errors import BadGate, BadPlan
from trimtab.steering.gates import GATES, Gate
from trimtab.steering.gates.all_of import AllOf
from trimtab.steering.gates.any_of import AnyOf
from trimtab.steering.gates.base import GateInput
from trimtab.steering.gates.cast import Cast
from trimtab.steering.gates.controlled import Controlled, Network
from trimtab.steering.gates.cosine import Cosine
from trimtab.steering.gates.decay import Decay
from trimtab.steering.gates.first import First
from trimtab.steering.gates.linear import Linear
from trimtab.steering.gates.ramp import Ramp
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.add import Add
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.pack import Packed
from trimtab.steering.plans.plan import SteeringPlan

SITE, DEEP = Site("resid_post", 1), Site("resid_post", 2)
PROMPTS = torch.tensor([[7, 3, 52, 11, 30], [9, 41, 8, 22, 6], [3, 3, 17, 60, 44], [12, 5, 33, 2, 19]])
NEVER, ALWAYS = math.inf, -math.inf
BEAMS_THAT_CROSS = (0, 6, 7, 17, 25, 30)  # where what rows held under rows of other texts showed


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan(model, gate: Gate | None, span: str = "all", site: Site = SITE) -> SteeringPlan:
    move = Add(2 * noise(0, Anatomy.of(model).width(site)))
    return SteeringPlan((Intervention(site, move if gate is None else Gated(move, gate), Span.parse(span)),))


def scored(model, name: str, threshold: float, **more) -> Gate:
    vector = noise(1, Anatomy.of(model).width(DEEP))
    known = {
        "linear": lambda: Linear(weight=vector, bias=0.1, site=DEEP, threshold=threshold, **more),
        "cosine": lambda: Cosine(direction=vector, site=DEEP, threshold=threshold, **more),
        "cast": lambda: Cast(condition=vector, site=DEEP, threshold=threshold, **more),
    }
    return known[name]()


def splitting(model, name: str = "linear", **more) -> Gate:
    """A gate that opens for half of PROMPTS: its threshold lies between their scores, read here by plain hooks."""
    gate = scored(model, name, 0.0, **more)
    rows = torch.stack([clean(model, ids, gate.reads[0].pool) for ids in PROMPTS])
    ordered = gate.score(rows).sort().values
    assert ordered[2] - ordered[1] > 1e-6
    return replace(gate, threshold=float((ordered[1] + ordered[2]) / 2))


def clean(model, ids: torch.Tensor, pool: str) -> torch.Tensor:
    """What stands at DEEP after a prompt alone."""
    rows = at(model, ids, DEEP)
    return rows[-1] if pool == "last" else rows.mean(0)


def at(model, ids: torch.Tensor, site: Site) -> torch.Tensor:
    """`[s d]` at a site. (`hidden_states[-1]` would be after the final norm.)"""
    values: list[torch.Tensor] = []
    with torch.inference_mode(), hooked(Anatomy.of(model), reads=[(site, lambda h: values.append(h[0].clone()))]):
        model(ids[None])
    return values[0]


def opens(model, gate: Gate) -> list[bool]:
    return [bool(gate.score(clean(model, ids, gate.reads[0].pool)) > gate.threshold) for ids in PROMPTS]


SCORED = ("linear", "cosine", "cast")


@pytest.mark.parametrize("name", SCORED)
def test_closed_is_the_identity_and_open_the_move_to_the_bit(tiny, bench, name):
    base, shut, wide = bench.logits(tiny), scored(tiny, name, NEVER), scored(tiny, name, ALWAYS)
    with plan(tiny, None).on(tiny):
        steered = bench.logits(tiny)
    assert not torch.equal(steered, base)
    with plan(tiny, shut).on(tiny) as session:
        assert torch.equal(bench.logits(tiny), base)
        assert session.forwards == 1, "the reading pass is not counted"
    with plan(tiny, wide).on(tiny):
        assert torch.equal(bench.logits(tiny), steered)
    assert torch.equal(bench.logits(tiny), base)


def test_rows_decide_for_themselves_in_every_cached_step(tiny, bench):
    """A batch of prompts, decoded under a gate on a later block than the one it steers, row by row and at once.

    With experts only within rounding: how many tokens share an expert's matrix product depends on the other rows."""
    experts = Anatomy.of(tiny).family.down_proj is None
    gate = splitting(tiny)
    wanted = opens(tiny, gate)
    assert sum(wanted) == 2
    with plan(tiny, None, "answer").on(tiny):
        steered, steered_logits = bench.generate(tiny, PROMPTS, n=4)
    with plan(tiny, gate, "answer").on(tiny):
        _, cached = bench.generate(tiny, PROMPTS, n=4)
        _, uncached = bench.generate(tiny, PROMPTS, n=4, use_cache=False)
    _, base_logits = bench.generate(tiny, PROMPTS, n=4)
    for k, is_open in enumerate(wanted):
        want = (steered_logits if is_open else base_logits)[k]
        assert experts or torch.equal(cached[k], want)
        torch.testing.assert_close(cached[k], want, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(cached, uncached, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_decisions_do_not_see_padding_or_the_batch(tiny_llama, bench, name, pool):
    model, gate = tiny_llama, splitting(tiny_llama, name, pool=pool)
    padded = torch.cat([torch.zeros(4, 3, dtype=torch.long), PROMPTS], dim=1)
    mask = (torch.arange(8) >= 3).long().expand(4, 8)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"attention_mask": mask, "position_ids": positions}
    base = bench.logits(model, padded, **inputs)
    with plan(model, gate).on(model):
        got = bench.logits(model, padded, **inputs)
    changed = (got - base)[:, -1].abs().amax(-1) > 0
    assert changed.tolist() == opens(model, gate)


def test_beams_share_their_prompts_decision(tiny_llama, bench):
    gate = splitting(tiny_llama)
    options = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    base = tiny_llama.generate(input_ids=PROMPTS, **options)
    with plan(tiny_llama, None, "answer").on(tiny_llama):
        steered = tiny_llama.generate(input_ids=PROMPTS, **options)
    with plan(tiny_llama, gate, "answer").on(tiny_llama):
        got = tiny_llama.generate(input_ids=PROMPTS, **options)
    for k, is_open in enumerate(opens(tiny_llama, gate)):
        assert torch.equal(got[k], (steered if is_open else base)[k])


def test_token_gate_follows_the_answer_cached_as_uncached(tiny_llama, bench):
    model, gate = tiny_llama, Linear(weight=noise(1, 48), site=Site("resid_post", 0), threshold=0.0, hold="token")
    width = Anatomy.of(model).width(SITE)
    gate = replace(gate, weight=noise(1, width))
    ids = torch.cat([PROMPTS, PROMPTS.flip(1)], dim=1)
    with plan(model, gate, "generated").on(model, prompt_lengths=[5] * 4):
        at_once = bench.logits(model, ids)
    with plan(model, gate, "generated").on(model, prompt_lengths=[5] * 4):
        stepwise = bench.decode(model, ids, prompt=5)
    with plan(model, None, "generated").on(model, prompt_lengths=[5] * 4):
        always = bench.logits(model, ids)
    torch.testing.assert_close(at_once, stepwise, rtol=2e-4, atol=2e-4)
    assert not torch.allclose(at_once, always) and not torch.allclose(at_once, bench.logits(model, ids))


def test_kept_caches_of_chats_in_turn_are_decided_on_by_their_own_texts(tiny_llama):
    """Chats that take turns in one block: each second turn goes on from its cache as its whole text decides."""
    model, gate = tiny_llama, splitting(tiny_llama)
    options, differ = {"max_new_tokens": 3, "do_sample": False}, 0
    with plan(model, gate).on(model):
        caches = [DynamicCache(config=model.config) for _ in PROMPTS]
        turns = [
            model.generate(ids[None], past_key_values=c, **options) for ids, c in zip(PROMPTS, caches, strict=True)
        ]
    more = torch.randint(2, 60, (len(turns), 3), generator=torch.Generator().manual_seed(2))
    texts = [torch.cat([turn, new[None]], dim=1) for turn, new in zip(turns, more, strict=True)]
    wanted = []
    for text, cache, was_open in zip(texts, caches, opens(model, gate), strict=True):
        is_open = bool(gate.score(clean(model, text[0], "last")) > gate.threshold)
        differ += is_open != was_open
        with (plan(model, None) if is_open else SteeringPlan(())).on(model):
            wanted.append(model.generate(text, past_key_values=copy.deepcopy(cache), **options))
    with plan(model, gate).on(model):
        for text, cache, want in zip(texts, caches, wanted, strict=True):
            assert torch.equal(model.generate(text, past_key_values=cache, **options), want)
    assert differ, "this test would see no difference"


def test_new_tokens_alone_do_not_tell_a_gate_what_the_text_is(tiny_llama):
    with torch.no_grad():
        cache = tiny_llama(PROMPTS, use_cache=True).past_key_values
    inputs = {"attention_mask": torch.ones(4, 7, dtype=torch.long), "past_key_values": cache, "max_new_tokens": 2}
    with (
        pytest.raises(BadPlan, match="ids of the whole text"),
        plan(tiny_llama, splitting(tiny_llama)).on(tiny_llama),
    ):
        tiny_llama.generate(PROMPTS[:, :2], **inputs)


def test_token_gates_follow_beams_and_rejected_candidates(tiny_llama):
    """With hysteresis, where a token's decision depends on the one before it: in its own beam, of accepted tokens."""
    width = Anatomy.of(tiny_llama).width(SITE)
    for seed in BEAMS_THAT_CROSS:
        gate = Linear(weight=noise(seed, width), site=Site("resid_post", 0), threshold=0.0, hold="token", slack=4.0)
        move = Gated(Add(3 * noise(seed + 100, width)), gate)
        ids = torch.randint(2, 60, (1, 6), generator=torch.Generator().manual_seed(seed)).repeat(1, 2)
        with SteeringPlan((Intervention(SITE, move),)).on(tiny_llama):
            for how in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 3}):
                options = {"do_sample": False, "max_new_tokens": 8}
                reference = how if "num_beams" in how else {}
                got = tiny_llama.generate(ids, **options, **how)
                assert torch.equal(got, tiny_llama.generate(ids, use_cache=False, **options, **reference)), (seed, how)


def test_hysteresis_closes_later_than_it_opens():
    gate = Linear(weight=torch.ones(1), site=SITE, threshold=1.0, hold="token", slack=0.5)
    scores = torch.tensor([[0.0, 1.2, 0.7, 0.4, 0.9, 1.1]])
    age = torch.arange(6)[None]
    inputs = GateInput(age, {gate.reads[0]: torch.zeros(1, 1)}, {SITE: scores[..., None]}, {})
    assert gate.factor(inputs).tolist() == [[0, 1, 1, 0, 0, 1]]
    memory: dict = {}
    found = []
    for k in range(6):
        part = GateInput(age[:, k : k + 1], inputs.prompt, {SITE: scores[:, k : k + 1, None]}, memory, column=k)
        found.append(float(gate.factor(part)))
    assert found == [0, 1, 1, 0, 0, 1], "the state lasts from pass to pass"
    below = replace(gate, below=True, slack=0.0)
    assert below.factor(inputs).tolist() == [[1, 0, 1, 1, 1, 0]]


def test_schedules_and_logic_are_their_formulas():
    age = torch.tensor([[-2, -1, 0, 1, 2, 3, 4]])
    inputs = GateInput(age)
    assert First(2).factor(inputs).tolist() == [[1, 1, 1, 1, 0, 0, 0]]
    assert Ramp(4).factor(inputs).tolist() == [[0, 0, 0.25, 0.5, 0.75, 1, 1]]
    assert Decay(2.0).factor(inputs)[0, 2:].tolist() == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5, 0.25])
    both = AllOf(First(3), Ramp(4))
    torch.testing.assert_close(both.factor(inputs), First(3).factor(inputs) * Ramp(4).factor(inputs))
    either = AnyOf(First(2), Ramp(4))
    torch.testing.assert_close(either.factor(inputs), First(2).factor(inputs).maximum(Ramp(4).factor(inputs)))


def controlled(model, closed: float = 0.0) -> SteeringPlan:
    """Two interventions under one network that reads two blocks."""
    width = Anatomy.of(model).width(SITE)
    network = Network(
        0.1 * noise(2, 2 * width), noise(3, 2 * width).abs() + 1, noise(4, 6, 2 * width), noise(5, 6), noise(6, 3, 6),
        noise(7, 3),
    )  # fmt: skip
    gates = [Controlled(network, (SITE, DEEP), k, closed) for k in range(2)]
    steps = [
        Intervention(site, Gated(Add(noise(8, width)), gate)) for site, gate in zip((SITE, DEEP), gates, strict=True)
    ]
    return SteeringPlan(tuple(steps))


def test_controller_weighs_blocks_row_by_row_and_round_trips(tiny_llama, bench):
    model, made = tiny_llama, controlled(tiny_llama)
    network = made.interventions[0].move.gate.network
    rows = [torch.cat([at(model, ids, site)[-1] for site in (SITE, DEEP)]) for ids in PROMPTS]
    scale, weights = network.scale_and_weights(torch.stack(rows))
    with made.on(model):
        got = bench.logits(model, PROMPTS)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(got, bench.logits(model, PROMPTS.flip(1)))
    for k, ids in enumerate(PROMPTS):
        steps = [
            replace(step, move=step.move.move, strength=float(scale[k] * weights[k, n]))
            for n, step in enumerate(made.interventions)
        ]
        with SteeringPlan(tuple(steps)).on(model):
            torch.testing.assert_close(got[k], bench.logits(model, ids[None])[0], rtol=2e-4, atol=2e-4)
    packed = made.pack()
    again = SteeringPlan.unpack(Packed(packed.arrays, packed.header))
    first, second = (step.move.gate.network for step in again.interventions)
    assert first is second, "written once, read back once"
    with again.on(model):
        assert torch.equal(bench.logits(model, PROMPTS), got)


def test_a_controller_below_its_cut_leaves_prompts_to_the_bit(tiny_llama, bench):
    base = bench.logits(tiny_llama, PROMPTS)
    network = controlled(tiny_llama).interventions[0].move.gate.network
    rows = torch.stack([torch.cat([at(tiny_llama, ids, site)[-1] for site in (SITE, DEEP)]) for ids in PROMPTS])
    scale = network.scale_and_weights(rows)[0]
    cut = float(scale.sort().values[1:3].mean())
    with controlled(tiny_llama, closed=cut).on(tiny_llama):
        got = bench.logits(tiny_llama, PROMPTS)
    assert [torch.equal(a, b) for a, b in zip(got, base, strict=True)] == (scale <= cut).tolist()
    assert 0 < int((scale <= cut).sum()) < 4


def test_the_governor_holds_under_a_gate(tiny_llama):
    gate = splitting(tiny_llama)
    with plan(tiny_llama, gate, "answer").on(tiny_llama, strength=5.0, govern=0.05) as session:
        tiny_llama.generate(input_ids=PROMPTS, max_new_tokens=5, do_sample=True)
    spent = torch.stack(session.ledger.spent)
    asked = torch.stack(session.ledger.asked).sum(0) > 0
    assert spent.max() <= 0.05 and asked.tolist() == opens(tiny_llama, gate)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_round_trips(name, tiny_llama, bench):
    width = Anatomy.of(tiny_llama).width(DEEP)
    network = Network(
        torch.zeros(width), torch.ones(width), noise(1, 3, width), noise(2, 3), noise(3, 2, 3), noise(4, 2)
    )
    samples = {
        "all_of": lambda: AllOf(First(3), scored(tiny_llama, "linear", ALWAYS)),
        "any_of": lambda: AnyOf(Decay(1.0), scored(tiny_llama, "cosine", NEVER)),
        "cast": lambda: scored(tiny_llama, "cast", 0.3, below=True),
        "controlled": lambda: Controlled(network, (DEEP,), 0),
        "cosine": lambda: scored(tiny_llama, "cosine", -0.2, pool="mean"),
        "decay": lambda: Decay(3.0),
        "first": lambda: First(2),
        "linear": lambda: scored(tiny_llama, "linear", 0.1, slack=0.5),
        "ramp": lambda: Ramp(3),
    }
    if name not in samples:
        pytest.fail(f"gate '{name}' has no sample here: add one")
    made = plan(tiny_llama, samples[name]())
    packed = made.pack()
    with made.on(tiny_llama):
        want = bench.logits(tiny_llama, PROMPTS)
    with SteeringPlan.unpack(packed).on(tiny_llama):
        assert torch.equal(bench.logits(tiny_llama, PROMPTS), want)


def test_what_cannot_be_decided_is_refused(tiny_llama, bench):
    follows_late = scored(tiny_llama, "linear", 0.0, hold="token")
    with pytest.raises(BadPlan, match="not before it in a pass"), plan(tiny_llama, follows_late).on(tiny_llama):
        pass
    narrow = Linear(weight=torch.ones(3), site=DEEP, threshold=0.0)
    with pytest.raises(BadPlan, match=r"reads 3 numbers at resid_post.2"), plan(tiny_llama, narrow).on(tiny_llama):
        pass
    with torch.inference_mode():
        cache = tiny_llama(input_ids=PROMPTS, use_cache=True).past_key_values
    late = plan(tiny_llama, splitting(tiny_llama))
    with pytest.raises(BadPlan, match="run the prompt inside"), late.on(tiny_llama):
        bench.logits(tiny_llama, PROMPTS[:, :1], past_key_values=cache)
    with pytest.raises(BadPlan, match="prefill_chunk_size"), late.on(tiny_llama, prompt_lengths=[9] * 4):
        bench.logits(tiny_llama, PROMPTS)


BAD = {
    "hold": (lambda: Linear(weight=torch.ones(2), site=SITE, threshold=0.0, hold="turn"), "answer or a token"),
    "pool": (lambda: Linear(weight=torch.ones(2), site=SITE, threshold=0.0, pool="max"), "last or mean"),
    "slack": (lambda: Linear(weight=torch.ones(2), site=SITE, threshold=0.0, slack=-1.0), "slack is -1"),
    "nan": (lambda: Linear(weight=torch.ones(2), site=SITE, threshold=math.nan), "threshold is nan"),
    "zero": (lambda: Cosine(direction=torch.zeros(2), site=SITE, threshold=0.0), "zero or not finite"),
    "matrix": (lambda: Cast(condition=torch.ones(2, 2), site=SITE, threshold=0.0), "one float32 vector"),
    "first": (lambda: First(0), "never opens"),
    "ramp": (lambda: Ramp(0), "is none"),
    "decay": (lambda: Decay(0.0), "half-life"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_fields_are_named(case):
    make, message = BAD[case]
    with pytest.raises(BadGate, match=message):
        make()
