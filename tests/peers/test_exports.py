"""Our files in the tools they are for: each steers the same model to the same logits as the plan does."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from trimtab.steering.export import FORMATS, About
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import GENERATED
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

ABOUT = About("warm", "owner/model")
TEXT = "The capital of France is a city called"


def plan_of(model, blocks: tuple[int, ...]) -> SteeringPlan:
    width = Anatomy.of(model).d_model
    vectors = {b: torch.randn(width, generator=torch.Generator().manual_seed(b)) for b in blocks}
    steps = (Intervention(Site("resid_post", b), Add(v), strength=1.5) for b, v in vectors.items())
    return SteeringPlan(tuple(steps), Anatomy.of(model).fingerprint)


def steered(model, ids: torch.Tensor, plan: SteeringPlan) -> torch.Tensor:
    with torch.inference_mode(), plan.on(model):
        return model(ids).logits


@pytest.fixture
def ids(subject) -> torch.Tensor:
    return torch.from_numpy(subject.texts[1].ids)[None]


@pytest.fixture
def plan(subject) -> SteeringPlan:
    return plan_of(subject.model, (subject.middle - 1, subject.middle))


def assert_steers_alike(model, ids: torch.Tensor, plan: SteeringPlan, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(theirs, steered(model, ids, plan), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(theirs, model(ids).logits, atol=0.01), "the file steered nothing"


def test_steering_vectors(subject, ids, plan, tmp_path):
    library = pytest.importorskip("steering_vectors")
    FORMATS["steering_vectors"]().write(plan, tmp_path / "v.pt", ABOUT)
    vector = library.SteeringVector(**torch.load(tmp_path / "v.pt", weights_only=True))
    with torch.inference_mode(), vector.apply(subject.model):
        theirs = subject.model(ids).logits
    assert_steers_alike(subject.model, ids, plan, theirs)


def test_repeng_reads_ours(subject, ids, plan, tmp_path):
    repeng = pytest.importorskip("repeng")
    FORMATS["repeng"]().write(plan, tmp_path / "v.gguf", ABOUT)
    vector = repeng.ControlVector.import_gguf(tmp_path / "v.gguf")
    controlled = repeng.ControlModel(subject.model, sorted(vector.directions))
    try:
        controlled.set_control(vector)
        with torch.inference_mode():
            theirs = subject.model(ids).logits
    finally:
        controlled.reset()
        controlled.unwrap()
    assert_steers_alike(subject.model, ids, plan, theirs)


def test_we_read_repengs(subject, plan, tmp_path):
    repeng = pytest.importorskip("repeng")
    directions = {step.site.block: step.move.vector.numpy() for step in plan.interventions}
    repeng.ControlVector(model_type="llama", directions=directions).export_gguf(tmp_path / "theirs.gguf")
    read = FORMATS["repeng"]().read(tmp_path / "theirs.gguf")
    assert {s.site.block: s.move.vector.tolist() for s in read.interventions} == {
        block: direction.tolist() for block, direction in directions.items()
    }


@pytest.fixture(scope="module")
def folder(real_model, tmp_path_factory) -> Path:
    """The embedded model as a folder that any library loads."""
    from transformers import LlamaForCausalLM

    model, tokenizer = real_model
    copy = LlamaForCausalLM(model.config).to(model.dtype)
    copy.load_state_dict(model.state_dict())
    path = tmp_path_factory.mktemp("model")
    copy.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.real_model
def test_lm_eval(real_model, folder, tmp_path):
    harness = pytest.importorskip("lm_eval.models.hf_steered")
    model, tokenizer = real_model
    plan = plan_of(model, (10, 20))
    FORMATS["lm_eval"]().write(plan, tmp_path / "v.pt", ABOUT)
    theirs = harness.SteeredModel(
        pretrained=str(folder), steer_path=str(tmp_path / "v.pt"), device="cpu", dtype="float32"
    )
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    assert_steers_alike(model, ids, plan, theirs._model_call(ids))


@pytest.mark.real_model
@pytest.mark.parametrize("span", ["all", "generated"])
def test_brainpatch(span, real_model, folder, tmp_path):
    cli = pytest.importorskip("brainpatch.cli")
    from brainpatch.backends.transformers_backend import TransformersBackend
    from brainpatch.patch.loader import load_patch
    from brainpatch.runtime.base import GenerationConfig

    model, tokenizer = real_model
    plan = plan_of(model, (10,)) if span == "all" else plan_of(model, (10,)).spanning(GENERATED)
    file = tmp_path / "warm.brainpatch"
    FORMATS["brainpatch"]().write(plan, file, About("warm", str(folder)))
    validated = CliRunner().invoke(cli.app, ["validate", str(file)])
    assert validated.exit_code == 0, validated.output
    backend = TransformersBackend()
    backend.load_model(str(folder), device="cpu", dtype="float32")
    backend.install_patch(load_patch(file))
    theirs = backend.generate(TEXT, GenerationConfig(max_new_tokens=12), use_chat_template=False)
    inputs = tokenizer(TEXT, return_tensors="pt")
    with plan.on(model):
        answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert theirs.strip() == tokenizer.decode(answer, skip_special_tokens=True).strip()
    plain = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert theirs.strip() != tokenizer.decode(plain, skip_special_tokens=True).strip()
