"""The governor's promise: KL(answered || base) stays within the budget at every token, for any plan whatever."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.steering.errors import SteeringError
from trimtab.steering.generate import Decoding, generate
from trimtab.steering.intervention import Intervention
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.moves.add import Add
from trimtab.steering.plan import SteeringPlan
from trimtab.steering.price.governor import Governor, divergence_on_path, govern, largest_share

BUDGETS = (0.0, 1e-3, 0.2)
STRENGTHS = (0.05, 1.0, 30.0, 1e5)


def plan_for(model, seed: int, strength: float) -> SteeringPlan:
    """Random directions at two sites, drawn by seed."""
    anatomy = Anatomy.of(model)
    stream = torch.Generator().manual_seed(seed)
    steps = []
    for point in ("resid_post", "z"):
        site = Site(point, int(torch.randint(0, anatomy.n_layers, (1,), generator=stream)))
        steps.append(Intervention(site, Add(torch.randn(anatomy.width(site), generator=stream)), strength=strength))
    return SteeringPlan(tuple(steps))


def prompts(model, lengths=(7, 4, 5)) -> list[Tokens]:
    """Ragged random prompts."""
    stream = torch.Generator().manual_seed(5)
    vocab = Anatomy.of(model).d_vocab
    rows = [torch.randint(2, min(vocab, 50), (n,), generator=stream).numpy() for n in lengths]
    return [Tokens(r, len(r), np.zeros(len(r), np.uint8), np.zeros(len(r), bool)) for r in rows]


def left_padded(model):
    """The same prompts as a left-padded batch for `model.generate`."""
    rows = prompts(model)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + r.ids.tolist() for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_bound_holds_at_every_token_in_every_family(tiny, strength, budget):
    for seed in range(3):
        plan = plan_for(tiny, seed, strength)
        torch.manual_seed(seed)
        with torch.no_grad(), plan.on(tiny, govern=budget) as session:
            tiny.generate(**left_padded(tiny), max_new_tokens=4, do_sample=bool(seed % 2))
        spent = torch.stack(session.ledger.spent)
        assert spent.shape[0] == 4
        assert float(spent.max()) <= budget


def test_bound_is_of_the_distribution_that_was_answered_from(tiny_llama):
    """The ledger is not believed: base logits are computed apart, token by token, from the answered text."""
    plan = plan_for(tiny_llama, 1, 20.0)
    inputs = left_padded(tiny_llama)
    with torch.no_grad(), plan.on(tiny_llama, govern=0.05):
        out = tiny_llama.generate(
            **inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    for step, mixed in enumerate(out.logits):
        columns = inputs["input_ids"].shape[1] + step
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, step, dtype=torch.long)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            base = tiny_llama(input_ids=out.sequences[:, :columns], attention_mask=mask, position_ids=positions)
        p, q = mixed.double().log_softmax(-1), base.logits[:, -1].double().log_softmax(-1)
        assert float((p.exp() * (p - q)).sum(-1).max()) <= 0.05 + 1e-5  # two float32 passes round differently


def test_within_budget_the_tokens_are_the_ungoverned_ones(tiny):
    plan = plan_for(tiny, 2, 0.05)
    with torch.no_grad(), plan.on(tiny):
        free = tiny.generate(**left_padded(tiny), max_new_tokens=4, do_sample=False)
    with torch.no_grad(), plan.on(tiny, govern=1e9) as session:
        governed = tiny.generate(**left_padded(tiny), max_new_tokens=4, do_sample=False)
    assert torch.equal(free, governed)
    assert session.ledger.held_back() == 0
    assert float(torch.stack(session.ledger.share).min()) == 1


def test_a_budget_of_nothing_answers_like_the_base_model(tiny):
    with torch.no_grad():
        base = tiny.generate(**left_padded(tiny), max_new_tokens=4, do_sample=False)
        with plan_for(tiny, 3, 10.0).on(tiny, govern=0.0):
            governed = tiny.generate(**left_padded(tiny), max_new_tokens=4, do_sample=False)
    assert torch.equal(base, governed)


def test_a_sequence_budget_is_never_overspent_and_begins_anew_with_each_answer(tiny_llama):
    plan = plan_for(tiny_llama, 4, 50.0)
    with torch.no_grad(), plan.on(tiny_llama, govern=Governor(0.3, sequence=0.5)) as session:
        for _ in range(2):
            tiny_llama.generate(**left_padded(tiny_llama), max_new_tokens=6, do_sample=False)
    spent = torch.stack(session.ledger.spent)
    assert spent.shape[0] == 12
    for answer in (spent[:6], spent[6:]):
        assert float(answer.sum(0).max()) <= 0.5 + 1e-12
        assert float(answer.max()) <= 0.3
        assert float(answer.sum(0).min()) > 0.45  # it is spent, not just kept


def test_uncached_generation_is_governed_alike(tiny_llama):
    plan = plan_for(tiny_llama, 6, 5.0)
    answers = []
    for use_cache in (True, False):
        with torch.no_grad(), plan.on(tiny_llama, govern=Governor(0.05, sequence=0.12)) as session:
            answers.append(
                tiny_llama.generate(**left_padded(tiny_llama), max_new_tokens=5, do_sample=False, use_cache=use_cache)
            )
        assert float(torch.as_tensor(session.ledger.total()).max()) <= 0.12 + 1e-12
    assert torch.equal(*answers)


def test_our_own_generate_is_governed_and_rows_are_independent(tiny_llama):
    plan, rows = plan_for(tiny_llama, 7, 10.0), prompts(tiny_llama)

    def governed(texts, seed):
        with plan.on(tiny_llama, govern=0.1):
            return generate(tiny_llama, texts, None, Decoding(5, 1.0, seed))

    together = governed(rows, 0)
    assert together == [governed([row], k)[0] for k, row in enumerate(rows)]


def test_beams_and_labels_are_refused(tiny_llama):
    plan, ids = plan_for(tiny_llama, 8, 1.0), torch.tensor([[3, 4, 5]])
    with pytest.raises(SteeringError, match="beams"), torch.no_grad(), plan.on(tiny_llama, govern=0.1):
        tiny_llama.generate(ids, max_new_tokens=4, num_beams=2, do_sample=False)
    with pytest.raises(SteeringError, match="labels"), plan.on(tiny_llama, govern=0.1):
        tiny_llama(input_ids=ids, labels=ids)
    with pytest.raises(SteeringError, match="budget"):
        Governor(-0.1)


@settings(max_examples=200, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    base_scale=st.floats(1e-3, 50),
    budget=st.floats(0, 20),
    size=st.integers(2, 300),
    seed=st.integers(0, 2**31),
    half=st.booleans(),
)
def test_mixing_two_arbitrary_distributions_keeps_the_bound(scale, base_scale, budget, size, seed, half):
    stream = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if half else torch.float32
    base = (torch.randn(4, size, generator=stream) * base_scale).to(dtype)
    steered = (base + torch.randn(4, size, generator=stream) * scale).to(dtype)
    limit = torch.full((4,), budget, dtype=torch.float64)
    mixed, share, asked, spent = govern(base, steered, limit)
    p, q = mixed.double().log_softmax(-1), base.double().log_softmax(-1)
    paid = (p.exp() * (p - q)).sum(-1)
    assert (paid <= limit + 1e-12).all()
    assert torch.equal(mixed[share >= 1], steered[share >= 1])
    assert ((asked <= limit) == (share >= 1)).all()


def test_the_share_is_the_largest_that_fits_and_the_divergence_only_grows():
    stream = torch.Generator().manual_seed(0)
    p0 = torch.randn(6, 40, generator=stream, dtype=torch.float64).log_softmax(-1)
    p1 = (3 * torch.randn(6, 40, generator=stream, dtype=torch.float64)).log_softmax(-1)
    grid = torch.linspace(0, 1, 401, dtype=torch.float64)
    path = torch.stack([divergence_on_path(p0, p1, t.expand(6)) for t in grid])
    assert (path.diff(dim=0) >= -1e-12).all()
    limit = torch.full((6,), 0.1, dtype=torch.float64)
    share = largest_share(p0, p1, limit)
    brute = torch.stack([grid[(path[:, k] <= 0.1).nonzero().max()] for k in range(6)])
    assert (share >= brute - 1e-12).all() and (share <= brute + 1 / 400).all()
    assert (divergence_on_path(p0, p1, share) <= 0.1).all()
    assert (divergence_on_path(p0, p1, (share + 1e-6).clamp(max=1)) > 0.1).all()


@pytest.mark.real_model
@pytest.mark.slow
def test_bound_holds_on_the_real_model(real_model):
    model, tokenizer = real_model
    inputs = tokenizer(["The weather today is", "My dog"], return_tensors="pt", padding=True)
    worst = []
    for seed, strength in enumerate((1.0, 20.0, 1e4)):
        with torch.no_grad(), plan_for(model, seed, strength).on(model, govern=0.2) as session:
            model.generate(**inputs, max_new_tokens=6, do_sample=True)
        worst.append(float(torch.stack(session.ledger.spent).max()))
    assert max(worst) <= 0.2
    assert max(worst) > 0.19  # absurd strengths do meet the bound: it is the governor that holds them
