"""What an Anatomy says of a family's own parts is true, in every family that has a row."""

import pytest
import torch
from torch import Tensor, nn

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.families import FAMILIES
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.site import Site

IDS = torch.tensor([[7, 3, 52, 11, 30, 3, 18, 44, 9]])
NAMES = [*sorted(FAMILIES), "llama/plain", "gpt_neox/sequential", "stablelm/parallel"]


@pytest.fixture(scope="module")
def anatomies(build_tiny) -> dict[str, Anatomy]:
    """Of every family's tiny model, by name."""
    return {name: Anatomy.of(build_tiny(name)) for name in NAMES}


def last_stream(anatomy: Anatomy) -> Tensor:
    """resid_post of the last block, `[1 s d_model]`."""
    seen: list[Tensor] = []
    with torch.no_grad(), hooked(anatomy, reads=[(Site("resid_post", anatomy.n_layers - 1), seen.append)]):
        anatomy.base(input_ids=IDS, use_cache=False)
    return seen[0]


def test_logits_are_the_final_norm_through_the_unembedding(anatomies):
    """Without the soft cap, and up to a bias of the head and a division of all logits (granite)."""
    for name, anatomy in anatomies.items():
        with torch.no_grad(), anatomy.uncapped():
            logits = anatomy.model(input_ids=IDS, use_cache=False).logits
            want = anatomy.final_norm(last_stream(anatomy)) @ anatomy.unembedding.T
        bias = getattr(anatomy.model.get_output_embeddings(), "bias", None)
        want = want if bias is None else want + bias
        want = want / getattr(anatomy.text_config, "logits_scaling", 1.0)
        assert torch.allclose(logits, want, rtol=1e-4, atol=1e-4), name


def test_a_soft_cap_is_put_back(build_tiny):
    model = build_tiny("gemma2")
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        with Anatomy.of(model).uncapped():
            uncapped = model(input_ids=IDS).logits
        assert torch.equal(model(input_ids=IDS).logits, before)
    cap = model.config.final_logit_softcapping
    torch.testing.assert_close(cap * torch.tanh(uncapped / cap), before)


def test_every_norm_forgets_the_size_of_its_input(anatomies):
    for name, anatomy in anatomies.items():
        for norm in anatomy.norms:
            shape = getattr(norm, "normalized_shape", (anatomy.d_model,))  # of a norm without parameters
            width = next((parameter.shape[-1] for parameter in norm.parameters()), shape[-1])
            x, bias = torch.linspace(-3, 4, width)[None, None], getattr(norm, "bias", None)
            with torch.no_grad():
                image, larger = (norm(size * x) - (0 if bias is None else bias) for size in (1.0, 100.0))
            assert torch.allclose(larger, image, rtol=1e-3, atol=1e-3), f"{name}: {type(norm).__name__}"


def test_no_norm_is_missing(anatomies):
    """Nothing else in a text model has a vector as its weight."""
    for name, anatomy in anatomies.items():
        assert anatomy.final_norm in anatomy.norms and len(anatomy.norms) > anatomy.n_layers, name
        images = {id(inner) for tower in towers(anatomy) for inner in tower.modules()}
        for module in anatomy.base.modules():
            vector = getattr(getattr(module, "weight", None), "ndim", 0) == 1
            assert not vector or module in anatomy.norms or id(module) in images, f"{name}: {type(module).__name__}"


def towers(anatomy: Anatomy) -> list[nn.Module]:
    return [part for name, part in anatomy.base.named_modules() if "vision" in name or "projector" in name]


def test_a_gated_mlp_makes_two_numbers_for_each_neuron(anatomies):
    for name, anatomy in anatomies.items():
        if anatomy.family.down_proj is None:
            assert anatomy.gated_mlp is None, name
            continue
        block = anatomy.blocks[0]
        down = block.get_submodule(anatomy.family.down_proj)
        inside = [m for path, m in block.named_modules() if "mlp" in path or path == "fc1" or path.startswith("ffn.")]
        rows = [m.weight.numel() // anatomy.d_model for m in inside if m is not down and is_matrix(m)]
        assert sum(rows) == anatomy.d_mlp * (2 if anatomy.gated_mlp else 1), name


def is_matrix(module: nn.Module) -> bool:
    return getattr(module, "weight", torch.zeros(0)).ndim == 2


def test_activation_functions_are_functions_of_each_number_alone(anatomies):
    x = torch.linspace(-3, 3, 12).reshape(1, 3, 4)
    for name, anatomy in anatomies.items():
        # Experts may compute theirs in a kernel; bloom's is no module, and the relevance rule refuses it.
        assert anatomy.activation_functions or anatomy.gated_mlp is None or name == "bloom", name
        for function in anatomy.activation_functions:
            alone = torch.stack([function(number) for number in x.flatten()]).flatten()
            assert torch.allclose(function(x).flatten(), alone, atol=1e-3) and not torch.allclose(function(x), x), name


@pytest.mark.parametrize(("ids", "want"), [(None, ()), (2, (2,)), ([2, 5], (2, 5))])
def test_end_tokens_are_those_of_the_generation_configuration(tiny_llama, monkeypatch, ids, want):
    monkeypatch.setattr(tiny_llama.generation_config, "eos_token_id", ids)
    assert Anatomy.of(tiny_llama).end_tokens == want


def test_positions_that_the_model_has(build_tiny):
    assert Anatomy.of(build_tiny("gpt2")).max_tokens == 64
    assert Anatomy.of(build_tiny("opt")).max_tokens == 64
