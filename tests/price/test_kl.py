"""KL against brute force in float64; directions; what counts as a token."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from trimtab.steering.errors import SteeringError
from trimtab.steering.model import divergence
from trimtab.steering.model.divergence import kl_divergence, kl_of_logprobs
from trimtab.steering.price.calibration import Calibration
from trimtab.steering.price.dose import Dosing, dose_on
from trimtab.steering.price.kl import (
    STEERED_BASE,
    Measured,
    base_from_steered,
    divergences,
    steered_from_base,
    summarise,
)
from trimtab.steering.price.price import PricedOn, neutral_cost, price_plan
from trimtab.steering.price.rollouts import roll_out, rolled_divergences
from trimtab.steering.running.sampling import Sampling
from trimtab.steering.running.scorer import Scorer
from trimtab.steering.running.writing import Decoding, Draw
from trimtab.steering.statistics import Bootstrap


def brute(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("change", [1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_float32_logits_are_within_1e_7_of_float64(change, spread):
    torch.manual_seed(1)
    p = torch.randn(7, 5000) * spread + 40
    q = p + change * torch.randn_like(p)
    found = kl_divergence(p, q)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, brute(p, q), rtol=1e-5, atol=1e-7)


def test_equal_logits_cost_exactly_nothing():
    z = torch.randn(3, 1000) * 5
    assert torch.equal(kl_divergence(z, z.clone()), torch.zeros(3, dtype=torch.float64))


def test_a_constant_shift_of_logits_costs_nothing():
    z = torch.randn(3, 1000) * 5
    torch.testing.assert_close(kl_divergence(z, z + 7), torch.zeros(3, dtype=torch.float64), rtol=0, atol=2e-6)


def test_forbidden_tokens():
    p, q = torch.tensor([[0.0, 0.0, -torch.inf]]), torch.zeros(1, 3)
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor([np.log(1.5)]))
    assert kl_divergence(q, p).item() == torch.inf
    assert kl_divergence(torch.full((1, 3), torch.nan), q).isnan().item()


def test_from_log_probabilities():
    """The same in float64, for any leading dimensions, with the gradient of KL: (p, up to a constant, times p)."""
    p, q = (torch.randn(2, 3, 40, dtype=torch.float64).log_softmax(-1).requires_grad_(True) for _ in range(2))
    torch.testing.assert_close(kl_of_logprobs(p, q)[1], brute(p[1], q[1]))
    torch.testing.assert_close(kl_of_logprobs(p[0], q[0]), kl_divergence(p[0], q[0]))
    (slope,) = torch.autograd.grad(kl_of_logprobs(p, q).sum(), q)
    torch.testing.assert_close(slope, -p.exp())
    half = torch.tensor([[0.5, 0.5, 0.0]]).log()
    torch.testing.assert_close(
        kl_of_logprobs(half, torch.zeros(1, 3).log_softmax(-1)), torch.tensor([np.log(1.5)]).float()
    )


def test_many_rows_equal_few(monkeypatch):
    p, q = torch.randn(9, 50), torch.randn(9, 50)
    whole = kl_divergence(p, q)
    monkeypatch.setattr(divergence, "_HOST", 2 * 50)
    assert torch.equal(kl_divergence(p, q), whole)
    assert kl_divergence(p[:0], q[:0]).shape == (0,)


@pytest.mark.parametrize("span", ["answer", "all", "generated", "last", "first:2"])
def test_divergences_equal_plain_forward_passes(tiny, texts, make_plan, span):
    plan = make_plan(span=span, size=4.0)
    scorer = Scorer(tiny)
    for direction, flip in ((steered_from_base(plan), False), (base_from_steered(plan), True)):
        for text, found in zip(texts, divergences(scorer, texts, direction), strict=True):
            ids = torch.from_numpy(text.ids)[None]
            with torch.no_grad():
                base = tiny(ids).logits[0, text.prompt_length - 1 : -1]
                with plan.on(tiny, prompt_lengths=[text.prompt_length]):
                    steered = tiny(ids).logits[0, text.prompt_length - 1 : -1]
            want = brute(base, steered) if flip else brute(steered, base)
            np.testing.assert_allclose(found, want.numpy(), rtol=1e-3, atol=1e-6)


def test_directions_differ_and_are_named(tiny, texts, make_plan):
    plan = make_plan(size=20.0)
    scorer = Scorer(tiny)
    forward, backward = steered_from_base(plan), base_from_steered(plan)
    a, b = (np.concatenate(divergences(scorer, texts, d)).mean() for d in (forward, backward))
    assert (forward.name, backward.name) == ("steered||base", "base||steered")
    assert abs(a - b) > 0.02 * a


def test_the_budget_is_taken_on_what_the_steered_model_wrote(tiny, texts, make_text, make_plan):
    plan, decoding = make_plan(size=6.0), Decoding(max_new_tokens=9, seed=3)
    neutral = [make_text(k, 9, 0) for k in range(2)]
    found = price_plan(tiny, plan, PricedOn(texts, neutral, decoding=decoding)).budget
    written = roll_out(tiny, plan, texts, decoding)
    want = divergences(Scorer(tiny), written, steered_from_base(plan))
    assert found.n_tokens == 9 * len(texts)
    assert found.mean.mean == pytest.approx(np.concatenate(want).mean(), rel=1e-9)
    assert (found.direction, found.tokens, found.mean.n) == ("steered||base", "rollouts", len(texts))
    assert found.mean.low < found.mean.mean < found.mean.high <= found.max
    other = divergences(Scorer(tiny), roll_out(tiny, None, texts, decoding), steered_from_base(plan))
    assert np.concatenate(other).mean() != pytest.approx(found.mean.mean, rel=1e-3)


def test_stopping_is_a_token_that_costs(tiny, texts, make_plan):
    """An answer of k tokens that ended by itself has k + 1 decisions."""
    tiny.generation_config.eos_token_id = 7
    try:
        decoding = Decoding(max_new_tokens=60)
        lengths = [len(t) - t.prompt_length for t in roll_out(tiny, make_plan(), texts, decoding)]
        ended = [t.ids[-1] == 7 for t in roll_out(tiny, make_plan(), texts, decoding)]
    finally:
        tiny.generation_config.eos_token_id = None
    assert any(ended)
    assert all(n <= 60 and (stop or n == 60) for n, stop in zip(lengths, ended, strict=True))


def test_damage_reads_every_token_but_the_first(tiny, make_text, make_plan):
    texts = [make_text(k, 12 + k, 0) for k in range(4)]
    found = neutral_cost(Scorer(tiny), make_plan(span="all", size=4.0), texts).damage
    assert found.n_tokens == sum(len(t) - 1 for t in texts)
    assert found.direction == "base||steered" and found.mean.mean > 0
    with pytest.raises(SteeringError, match="one token"):
        neutral_cost(Scorer(tiny), make_plan(), [make_text(0, 1, 0)] * 2)


def test_strength_zero_costs_exactly_nothing(tiny, texts, make_plan):
    plan, decoding = make_plan().scaled(0.0), Decoding(max_new_tokens=5)
    spent = divergences(Scorer(tiny), roll_out(tiny, plan, texts, decoding), steered_from_base(plan))
    assert np.concatenate(spent).max() == 0.0


def test_per_token_values_are_thinned_evenly(make_text):
    texts = [make_text(k, 2, 3) for k in range(3)]
    per_text = [np.arange(3000.0), np.arange(3000.0), np.arange(10.0)]
    found = summarise(per_text, texts, Measured("steered||base", "forced", Bootstrap(draws=50)))
    assert len(found.per_token) == 2000 and found.n_tokens == 6010
    assert np.mean(found.per_token) == pytest.approx(found.mean.mean, rel=0.01)


def test_a_kl_is_taken_at_the_temperature_that_its_text_is_drawn_at(tiny, texts, make_plan):
    """Rolled out alone, side by side and priced: the same numbers, between the tempered distributions, said in the
    result. Cuts change the text, and leave the KL finite."""
    plan, scorer = make_plan(size=6.0), Scorer(tiny)
    for decoding in (Decoding(6, 0.5), Decoding(6, 0.7, top_k=9, top_p=0.9), Decoding(6, 0.0)):
        written, temperature = roll_out(tiny, plan, texts, decoding), decoding.temperature or 1.0
        for text, side, alone in zip(
            written,
            rolled_divergences(scorer, [plan], texts, decoding)[0],
            divergences(scorer, written, steered_from_base(plan, decoding.sampling)),
            strict=True,
        ):
            ids = torch.from_numpy(text.ids)[None]
            with torch.no_grad():
                base = tiny(ids).logits[0, text.prompt_length - 1 : -1]
                with plan.on(tiny, prompt_lengths=[text.prompt_length]):
                    steered = tiny(ids).logits[0, text.prompt_length - 1 : -1]
            want = brute(steered / temperature, base / temperature).numpy()
            np.testing.assert_allclose(side, want, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(alone, want, rtol=1e-3, atol=1e-5)
        per_text = divergences(scorer, written, steered_from_base(plan, decoding.sampling))
        priced = summarise(per_text, texts, Measured(STEERED_BASE, "rollouts", sampling=decoding.sampling))
        _, dosed = dose_on(Calibration(scorer, texts, decoding), plan, 0.05, Dosing(guess=0.5, cap=1))
        assert priced.sampling == dosed.sampling == Sampling(decoding.temperature, decoding.top_k, decoding.top_p)


def test_our_decoding_draws_as_transformers_would(tiny):
    """The same cuts, on the same logits, as the processors of `model.generate`."""
    logits = torch.randn(4, 61, generator=torch.Generator().manual_seed(0))
    options = GenerationConfig(do_sample=True, temperature=0.7, top_k=9, top_p=0.8)
    theirs = tiny._get_logits_processor(options, input_ids_seq_length=3)(torch.zeros(4, 3).long(), logits.clone())
    assert torch.equal(Sampling(0.7, 9, 0.8).processors()(torch.zeros(4, 3).long(), logits), theirs)
    for wrong in (Decoding(temperature=-1), Decoding(temperature=float("nan")), Decoding(top_p=0), Decoding(top_k=-1)):
        with pytest.raises(SteeringError, match="temperature|top_k"):
            Draw(wrong, [0])
