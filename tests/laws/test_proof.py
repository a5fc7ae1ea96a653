"""Law of names: the proof on load passes for every family, and a deliberately wrong row cannot pass."""

from dataclasses import replace

import pytest
from torch import nn

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.families import Family, family_of
from trimtab.steering.model.proof import prove


def test_the_row_of_every_family_is_proved(tiny):
    Anatomy.of(tiny).parts()
    prove(Anatomy.of(tiny))


def like(block: nn.Module, path: str) -> list[str]:
    """Modules of the block of the same kind: a projection for a projection, a norm for a norm."""
    known = block.get_submodule(path)
    return [name for name, module in block.named_modules() if name != path and type(module) is type(known)]


def wrong_rows(anatomy: Anatomy) -> dict[str, Family]:
    """Rows that resolve in this model, and lie. Neighbours are taken from the model, not from a list."""
    row, block = anatomy.family, anatomy.blocks[0]
    rows = {
        "attention is added by the MLP": replace(row, attn_added=row.mlp_added),
        "MLP is added by the attention": replace(row, mlp_added=row.attn_added),
        "both swapped": replace(row, attn_added=row.mlp_added, mlp_added=row.attn_added),
        "the projection's module for what is added": replace(row, mlp_added=row.out_proj),
    }
    if row.post_norm:
        rows["before the norm taken for what is added"] = replace(row, attn_added=row.attn)
        rows["before the norm, MLP"] = replace(row, mlp_added="mlp")
    for field in ("mid_input", "out_proj", "down_proj"):
        path = getattr(row, field)
        for other in [] if path is None else like(block, path):
            rows[f"{field} is {other}"] = replace(row, **{field: other})
    if row.mid_input is not None:
        rows["mid_input is attention"] = replace(row, mid_input=row.out_proj)
    rows["embed is a norm"] = replace(row, embed=last_norm(anatomy))
    return rows


def last_norm(anatomy: Anatomy) -> str:
    return [name for name, module in anatomy.model.named_modules() if "norm" in type(module).__name__.lower()][-1]


def test_no_wrong_row_passes(tiny):
    anatomy = Anatomy.of(tiny)
    passed = []
    for what, row in wrong_rows(anatomy).items():
        if row == anatomy.family:  # OPT adds what its down projection gives
            continue
        try:
            wrong = Anatomy(tiny, row)
            wrong.parts()
            prove(wrong)
        except UnsupportedModel as error:
            assert "families.py" in str(error), error
        else:
            passed.append(what)
    assert not passed


def test_sequential_taken_for_parallel_and_the_reverse(build_tiny):
    """A parallel block has no resid_mid: what its second norm reads is resid_pre."""
    parallel = Anatomy.of(build_tiny("gpt_neox"))
    with pytest.raises(UnsupportedModel, match="resid_mid"):
        prove(Anatomy(parallel.model, replace(parallel.family, mid_input="post_attention_layernorm", parallel=False)))


def test_a_path_that_leads_nowhere_is_named(tiny_llama):
    row = replace(Anatomy.of(tiny_llama).family, out_proj="self_attn.proj")
    with pytest.raises(UnsupportedModel, match="self_attn.proj.*families.py"):
        Anatomy(tiny_llama, row).parts()


def test_an_unknown_family_is_told_how_to_add_its_row(tiny_llama):
    class Config:
        model_type = "lama"

    with pytest.raises(UnsupportedModel, match="'lama' has no row.*families.py"):
        family_of(Config())
