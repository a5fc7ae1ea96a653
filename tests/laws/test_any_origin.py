"""Laws of Anatomy.of: the row is proved on the model in hand, wherever it came from (built by hand, adapted, packed),
once, without disturbing it; heads are edited in their own columns or the model is refused; a model let go is freed."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import LlamaForSequenceClassification, LlamaModel

from trimtab.steering.errors import UnsupportedModel
from trimtab.steering.model import anatomy as anatomy_module
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.families import FAMILIES
from trimtab.steering.model.hooks import hooked
from trimtab.steering.model.projection import out_weight
from trimtab.steering.model.proof import prove, readable_points
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

HEAD = Site("z", 1, 3)


class Packed4bit(nn.Linear):
    """Packed as bitsandbytes packs: half as many bytes as numbers, in one column."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__(weight.shape[0], weight.shape[1], bias=False)
        self.full, self.offset = weight.detach().clone(), bias
        self.weight = nn.Parameter(torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.full.to(x)
        return y if self.offset is None else y + self.offset.to(x)


def projections(anatomy: Anatomy) -> list[str]:
    """Dotted paths of the projections from heads and neurons."""
    row = anatomy.family
    parts = [path for path in (row.out_proj, row.down_proj) if path is not None]
    return [f"{row.blocks}.{block}.{path}" for block in range(anatomy.n_layers) for path in parts]


def packed(model):
    model = copy.deepcopy(model)
    for path in projections(Anatomy.of(model)):
        parent, _, name = path.rpartition(".")
        old = model.get_submodule(path)
        setattr(model.get_submodule(parent), name, Packed4bit(out_weight(old), old.bias))
    return model


def adapted(model):
    model = copy.deepcopy(model)
    paths = projections(Anatomy.of(model))
    transposed = FAMILIES[model.config.model_type].out_proj == "attn.c_proj"
    config = LoraConfig(r=2, target_modules=paths, init_lora_weights=False, fan_in_fan_out=transposed)
    return get_peft_model(model, config)


def edited_head(model, bench) -> tuple[torch.Tensor, torch.Tensor]:
    """All of z before and after a plan adds to one head."""
    anatomy, plan = Anatomy.of(model), SteeringPlan((Intervention(HEAD, Add(bench_noise(Anatomy.of(model)))),))
    before = bench.read(anatomy.model, [HEAD.whole])[HEAD.whole]
    with plan.on(model) as session:
        after = bench.read(anatomy.model, [HEAD.whole])[HEAD.whole]
    assert session.fired == [1]
    return before, after


def bench_noise(anatomy: Anatomy) -> torch.Tensor:
    return torch.randn(anatomy.width(HEAD), generator=torch.Generator().manual_seed(0))


def test_heads_of_adapted_and_packed_models_are_edited_in_their_own_columns(tiny, bench, assert_same):
    d_head, d_mlp = Anatomy.of(tiny).d_head, Anatomy.of(tiny).d_mlp
    mine = slice(3 * d_head, 4 * d_head)
    plain = bench.logits(tiny)
    for kind in (adapted, packed):
        model = kind(tiny)
        anatomy = Anatomy.of(model)
        assert (anatomy.d_head, anatomy.d_mlp) == (d_head, d_mlp), kind
        before, after = edited_head(model, bench)
        moved = (after - before)[..., mine] - bench_noise(anatomy)
        assert moved.abs().max() < 1e-5 and torch.equal(before[..., : mine.start], after[..., : mine.start]), kind
        z = anatomy.place(HEAD.whole).module
        with torch.inference_mode():
            assert_same(before @ out_weight(z) + z.forward(torch.zeros_like(before)), z.forward(before))
        assert (kind is adapted) != torch.allclose(bench.logits(model), plain, atol=1e-3), kind


def test_an_adapter_merged_answers_as_the_model_under_it(build_tiny, bench, assert_same):
    model = adapted(build_tiny("qwen3"))
    weight = out_weight(Anatomy.of(model).place(HEAD.whole).module)
    assert_same(weight, out_weight(Anatomy.of(model.merge_and_unload()).place(HEAD.whole).module))


def test_the_proof_leaves_the_model_as_it_was_in_every_dtype(tiny):
    experts = Anatomy.of(tiny).family.down_proj is None  # whose kernels know no float64
    for dtype in (torch.float16, torch.bfloat16, torch.float32, *(() if experts else (torch.float64,))):
        model = copy.deepcopy(tiny).to(dtype)
        for number, module in enumerate(model.modules()):
            module.training = number % 3 > 0
        flags, random = [module.training for module in model.modules()], torch.get_rng_state()
        prove(Anatomy(model, Anatomy.of(tiny).family))
        assert [module.training for module in model.modules()] == flags
        assert torch.equal(torch.get_rng_state(), random)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    model.eval()(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()  # nothing that it cached is spoiled


def test_a_row_is_refuted_whoever_built_the_model_and_each_time(build_tiny, bench, monkeypatch):
    model = copy.deepcopy(build_tiny("gemma2"))
    plan = bench.plan(build_tiny("gemma2"), Site("resid_post", 1))
    monkeypatch.setitem(FAMILIES, "gemma2", FAMILIES["llama"])
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="is wrong for this model"):
            Anatomy.of(model)
        with pytest.raises(UnsupportedModel, match="is wrong for this model"), plan.on(model):
            pass


def test_a_row_is_proved_once_and_again_when_its_modules_were_exchanged(build_tiny, monkeypatch):
    proofs = []
    monkeypatch.setattr(anatomy_module, "prove", lambda layout: proofs.append(prove(layout)))
    model = copy.deepcopy(build_tiny("llama"))
    for _ in range(3):
        Anatomy.of(model)
    assert len(proofs) == 1
    Anatomy.of(torch.compile(model)), Anatomy.of(model.train())
    assert len(proofs) == 1, "the same modules"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    Anatomy.of(wrapped), Anatomy.of(wrapped), Anatomy.of(model)
    assert len(proofs) == 2, "an adapter is in"
    Anatomy.of(wrapped.merge_and_unload())
    assert len(proofs) == 3, "and out again"


def test_a_compiled_model_is_proved_without_being_compiled(build_tiny):
    def never(graph, inputs):
        raise AssertionError("compiled")

    model = copy.deepcopy(build_tiny("llama"))
    model.compile(backend=never)
    model.model.compile(backend=never)
    assert Anatomy.of(torch.compile(model, backend=never)).model is model


def test_a_model_that_is_let_go_is_freed(build_tiny, bench):
    model = copy.deepcopy(build_tiny("llama"))
    alive, plan = weakref.ref(model), replace(bench.plan(model, HEAD), model=Anatomy.of(model).fingerprint)
    with plan.on(model):
        bench.logits(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_fingerprint_notices_training_and_adapters(build_tiny):
    model = copy.deepcopy(build_tiny("llama"))
    anatomy = Anatomy.of(model)
    seen = [anatomy.fingerprint]
    model(input_ids=torch.tensor([[1, 2]])).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    seen.append(anatomy.fingerprint)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False))
    seen.append(Anatomy.of(wrapped).fingerprint)
    wrapped.merge_adapter()  # through `.data`: torch's version counters stand still
    seen.append(Anatomy.of(wrapped).fingerprint)
    assert len(set(seen)) == 4
    assert anatomy.fingerprint == Anatomy.of(wrapped).fingerprint, "nothing changed in between"


def test_what_is_no_causal_language_model_is_refused_in_plain_words(build_tiny):
    llama = build_tiny("llama")
    empty = copy.deepcopy(llama).to("meta")
    prompts = get_peft_model(copy.deepcopy(llama), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    for model, why in {
        nn.DataParallel(llama): "steer `model.module`",
        nn.Sequential(llama): "Sequential is not a model of transformers",
        LlamaForSequenceClassification(llama.config): "does not predict the next token",
        LlamaModel(llama.config): "does not predict the next token",
        prompts: "virtual tokens",
        empty: "not in memory",
    }.items():
        with pytest.raises(UnsupportedModel, match=why):
            Anatomy.of(model)


def test_heads_that_do_not_fill_the_projection_are_refused(build_tiny):
    model = copy.deepcopy(build_tiny("qwen3"))
    model.config.head_dim = 10
    with pytest.raises(UnsupportedModel, match="takes 48 numbers, which are not 4 heads of 10"):
        Anatomy.of(model)
    anatomy = Anatomy.of(build_tiny("llama"))
    with pytest.raises(UnsupportedModel, match="does not say how wide"):
        prove(Anatomy(anatomy.model, replace(anatomy.family, out_proj="self_attn", attn_added="self_attn")))
    with hooked(anatomy):
        assert set(readable_points(anatomy)) > {"z"}
