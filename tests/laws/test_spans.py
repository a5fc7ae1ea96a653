"""What each span means, as a table: which tokens are steered at once, by hand with a cache, in a padded generation.

The other laws compare two ways of running; this one would notice if both were wrong together.
"""

import pytest
import torch
from torch.nn.functional import embedding

from trimtab.steering.errors import BadSpan
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

PROMPT, TOKENS = 6, 9
STEERED = {
    "all": [0, 1, 2, 3, 4, 5, 6, 7, 8],
    "prompt": [0, 1, 2, 3, 4, 5],
    "generated": [6, 7, 8],
    "answer": [5, 6, 7, 8],
    "last": [5],
    "first:4": [0, 1, 2, 3],
    "first:8": [0, 1, 2, 3, 4, 5, 6, 7],
    "after:4": [4, 5, 6, 7, 8],
    "after:7": [7, 8],
    "after:0": [0, 1, 2, 3, 4, 5, 6, 7, 8],
}
EMBED = Site("embed")


@pytest.fixture(params=["llama", "gpt2", "opt"])
def model(request, build_tiny):
    return build_tiny(request.param)


def steered_tokens(model, span: str, run, **options) -> torch.Tensor:
    """`[b s]`: True where what enters the first block is not the embedding of the token."""
    passes: list[torch.Tensor] = []
    plan = SteeringPlan((Intervention(EMBED, Add(torch.ones(40)), Span.parse(span)),))
    reads = [(EMBED, lambda h: passes.append(h.clone()))]
    with plan.on(model, **options), hooked(Anatomy.of(model), reads=reads):
        ids = run()
    seen = torch.cat(passes, dim=1)
    return (seen != embedding(ids[:, : seen.shape[1]], model.get_input_embeddings().weight)).any(-1)


@pytest.mark.parametrize("span", STEERED)
def test_a_scored_text(model, bench, span):
    def run():
        bench.logits(model)
        return bench.ids

    got = steered_tokens(model, span, run, prompt_lengths=[PROMPT])
    assert got[0].nonzero()[:, 0].tolist() == STEERED[span]


@pytest.mark.parametrize("span", STEERED)
def test_a_text_decoded_by_hand(model, bench, span):
    def run():
        bench.decode(model, prompt=PROMPT)
        return bench.ids

    got = steered_tokens(model, span, run)
    assert got[0].nonzero()[:, 0].tolist() == STEERED[span]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("span", STEERED)
def test_a_generation_from_a_padded_prompt(model, bench, span, padding):
    ids = torch.cat([torch.full((1, padding), 3), bench.ids[:, :PROMPT]], dim=1)
    mask = torch.tensor([[0] * padding + [1] * PROMPT])

    def run():
        return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS - PROMPT + 1, do_sample=False)

    got = steered_tokens(model, span, run)[0]
    assert not got[:padding].any(), "padding was steered"
    assert got[padding:].nonzero()[:, 0].tolist() == STEERED[span]


def test_a_generation_from_a_padded_prompt_in_chunks(model, bench):
    """No chunk but the last holds the prompt's last token."""
    ids, mask = torch.cat([torch.full((1, 3), 3), bench.ids[:, :PROMPT]], dim=1), torch.tensor([[0] * 3 + [1] * PROMPT])
    options = {"attention_mask": mask, "max_new_tokens": TOKENS - PROMPT + 1, "do_sample": False}
    for span, steered in STEERED.items():
        got = steered_tokens(model, span, lambda: model.generate(input_ids=ids, prefill_chunk_size=2, **options))[0]
        assert not got[:3].any() and got[3:].nonzero()[:, 0].tolist() == steered, span


def test_a_mask_that_does_not_tell_padding_from_text_is_refused(tiny_llama, bench):
    plan = bench.plan(tiny_llama, Site("resid_post", 1))
    with pytest.raises(BadSpan, match=r"attention_mask is \(1, 1, 9, 9\).*padding cannot be told"), plan.on(tiny_llama):
        bench.logits(tiny_llama, attention_mask=torch.ones(1, 1, 9, 9))
