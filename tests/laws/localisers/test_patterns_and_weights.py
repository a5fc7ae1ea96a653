"""Attention sinks, retrieval heads and successor heads: read off patterns and weights."""

import numpy as np
import pytest
import torch
from small_questions import text

from trimtab.steering.causal.question import Question
from trimtab.steering.errors import BadQuestion
from trimtab.steering.localisers.attention_sink import AttentionSink
from trimtab.steering.localisers.retrieval import Retrieval
from trimtab.steering.localisers.successor import _own_maps
from trimtab.steering.model.anatomy import Anatomy


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
