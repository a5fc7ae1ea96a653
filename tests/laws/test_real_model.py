"""The laws once on a trained model, where activations are massive and logits are not random."""

import pytest
import torch

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.fold import fold
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def plan(real_model):
    model, _ = real_model
    v = torch.randn(576, generator=torch.Generator().manual_seed(0))
    step = Intervention(Site("resid_post", 15), Add(30 * v / v.norm()))
    return SteeringPlan((step,), Anatomy.of(model).fingerprint)


@pytest.fixture(scope="module")
def batch(real_model):
    tokenizer = real_model[1]
    return tokenizer(
        ["The capital of France is", "Once upon a time there was a little"], padding=True, return_tensors="pt"
    )


def answers(model, batch, **options) -> torch.Tensor:
    return model.generate(**batch, max_new_tokens=8, do_sample=False, **options)


def test_zero_effect_cache_file_and_fold(real_model, plan, batch, tmp_path):
    model, _ = real_model
    base = answers(model, batch)
    with plan.on(model, strength=0.0):
        assert torch.equal(answers(model, batch), base)
    with plan.on(model) as session:
        steered = answers(model, batch)
        assert session.fired == [session.forwards]
        assert torch.equal(answers(model, batch, use_cache=False), steered)
    assert not torch.equal(steered, base)
    plan.save(tmp_path / "plan.safetensors")
    with SteeringPlan.load(tmp_path / "plan.safetensors").on(model):
        assert torch.equal(answers(model, batch), steered)
    assert torch.equal(answers(fold(plan, model), batch), steered)
    assert torch.equal(answers(model, batch), base)


def test_the_prompt_alone_steers_what_follows(real_model, plan, batch):
    """A plan on the prompt acts through the cache; on the answer it acts from the last prompt token on."""
    model, _ = real_model
    found = []
    for span in ("prompt", "generated", "answer"):
        with plan.spanning(Span.parse(span)).on(model), torch.inference_mode():
            found.append(model(**batch).logits[:, -1])
    base = model(**batch).logits[:, -1]
    changed = [(x - base).abs().max().item() > 1 for x in found]
    assert changed == [True, False, True] and torch.equal(found[1], base)
