"""Our files in the tools they are for: each steers the same model to the same logits as the plan does."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoTokenizer
from typer.testing import CliRunner

from tests.peers.interop_table import compared, tool
from trimtab.steering.errors import CannotExport
from trimtab.steering.export import FORMATS, About
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.fingerprint import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import GENERATED
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan

ABOUT = About("warm", "owner/model")
OURS, THEIRS = "ours there", "theirs here"
AISTEER360 = "AISteer360 1d7c843"  # the newest commit that could be had
ROOT = Path(__file__).parents[2]
QUESTIONS = 16
TEXT = "The capital of France is a city called"


def name_of(subject) -> str:
    """Of the model that a subject is."""
    return "smollm2" if Anatomy.of(subject.model).n_layers == 30 else "a tiny llama"


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


def assert_steers_alike(model, ids: torch.Tensor, plan: SteeringPlan, theirs: torch.Tensor) -> str:
    """The largest difference of the logits, in words."""
    ours = steered(model, ids, plan)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(theirs, model(ids).logits, atol=0.01), "the file steered nothing"
    return in_words(model, ids, ours, theirs)


def in_words(model, ids: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> str:
    """How far two sets of logits are apart, beside what steering does to them."""
    ours, theirs = ours.detach(), theirs.detach()
    apart, effect = float((theirs - ours).abs().max()), float((ours - model(ids).logits).abs().max())
    said = f"differ by at most {apart:.1e}" if apart else "equal to the bit"
    return f"{said}; steering moves them by up to {effect:.1f}"


def test_steering_vectors(subject, ids, plan, tmp_path):
    library = pytest.importorskip("steering_vectors")
    FORMATS["steering_vectors"]().write(plan, tmp_path / "v.pt", ABOUT)
    vector = library.SteeringVector(**torch.load(tmp_path / "v.pt", weights_only=True))
    with torch.inference_mode(), vector.apply(subject.model):
        theirs = subject.model(ids).logits
    said = assert_steers_alike(subject.model, ids, plan, theirs)
    compared("steering-vectors", tool("steering-vectors"), OURS, f"logits of {name_of(subject)}", said)


@pytest.fixture
def repeng(monkeypatch):
    """repeng 0.4.0, the newest on PyPI, names a type that NumPy 2 has no more; it is given back for the import."""
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return pytest.importorskip("repeng")


def test_repeng_reads_ours(subject, ids, plan, tmp_path, repeng):
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
    said = assert_steers_alike(subject.model, ids, plan, theirs)
    compared("repeng", tool("repeng"), OURS, f"logits of {name_of(subject)}", said)


def test_we_read_repengs(subject, plan, tmp_path, repeng):
    directions = {step.site.block: step.move.vector.numpy() for step in plan.interventions}
    repeng.ControlVector(model_type="llama", directions=directions).export_gguf(tmp_path / "theirs.gguf")
    read = FORMATS["repeng"]().read(tmp_path / "theirs.gguf")
    assert {s.site.block: s.move.vector.tolist() for s in read.interventions} == {
        block: direction.tolist() for block, direction in directions.items()
    }
    compared("repeng", tool("repeng"), THEIRS, "vectors of `export_gguf`", "equal to the bit")


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
    said = assert_steers_alike(model, ids, plan, theirs._model_call(ids))
    compared("lm-eval", tool("lm-eval"), OURS, "logits of smollm2 in its `steered` model", said)


@pytest.mark.real_model
@pytest.mark.parametrize("kind", ["hf", "steered"])
def test_a_task_of_lm_eval(kind, real_model, folder, tmp_path, monkeypatch):
    """The harness as it is called: every question's log-likelihood is that of our hooks."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    model, tokenizer = real_model
    plan = plan_of(model, (10, 20)).scaled(0.1)
    FORMATS["lm_eval"]().write(plan, tmp_path / "v.pt", ABOUT)
    steering = {"steer_path": str(tmp_path / "v.pt")} if kind == "steered" else {}
    out = lm_eval.simple_evaluate(
        model=kind, model_args={"pretrained": str(folder), "dtype": "float32", **steering}, device="cpu", batch_size=4,
        tasks=["trimtab_short_questions"], limit=QUESTIONS, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(ROOT / "benchmarks" / "lm_eval")),
    )  # fmt: skip
    theirs = [sample["resps"][0][0][0] for sample in out["samples"]["trimtab_short_questions"]]
    rows = [json.loads(line) for line in (ROOT / "recipes" / "concise_questions.jsonl").read_text().splitlines()]
    steer = plan if kind == "steered" else SteeringPlan(())
    ours = [_likelihood(model, tokenizer, row, steer) for row in rows[:QUESTIONS]]
    assert theirs == pytest.approx(ours, abs=1e-3) and len(theirs) == QUESTIONS
    if kind == "steered":
        base = [_likelihood(model, tokenizer, row, SteeringPlan(())) for row in rows[:QUESTIONS]]
        assert max(abs(a - b) for a, b in zip(theirs, base, strict=True)) > 0.05, "the file steered nothing"
    off = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    said = f"differ by at most {off:.1e}; perplexity {out['results']['trimtab_short_questions']['perplexity,none']:.0f}"
    what = f"log-likelihoods of {QUESTIONS} answers of a task, model `{kind}`"
    compared("lm-eval", tool("lm-eval"), OURS, what, said)


def _likelihood(model, tokenizer, row: dict[str, str], plan: SteeringPlan) -> float:
    """Of a question's answer under the plan, in nats."""
    prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
    ids = prompt + tokenizer(f" {row['answer']}")["input_ids"]
    logits = steered(model, torch.tensor([ids]), plan)[0].log_softmax(-1)
    return sum(logits[k - 1, ids[k]].item() for k in range(len(prompt), len(ids)))


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
    what = f"`validate`, and 12 greedy tokens of smollm2, span {span}"
    compared("brainpatch", tool("brainpatch"), OURS, what, "valid; the same tokens, not the base model's")


def test_we_read_brainpatchs(subject, ids, plan, tmp_path):
    """Their own compiler writes the patch; their runtime adds `coefficient * vector` to the output of block `layer`."""
    compiler = pytest.importorskip("brainpatch.patch.compiler")
    from brainpatch.patch.format import BaseModelSpec
    from brainpatch.patch.format import Intervention as Step

    anatomy = Anatomy.of(subject.model)
    vectors = {f"v{step.site.block}": step.move.vector.tolist() for step in plan.interventions}
    steps = [Step(layer=s.site.block, vector=f"v{s.site.block}", coefficient=1.5) for s in plan.interventions]
    base = BaseModelSpec("owner/model", "LlamaForCausalLM", anatomy.d_model, anatomy.n_layers)
    compiler.compile_from_vectors("theirs", vectors, steps, base, tmp_path / "theirs.brainpatch", dtype="F32")
    read = FORMATS["brainpatch"]().read(tmp_path / "theirs.brainpatch")
    said = assert_steers_alike(subject.model, ids, plan, steered(subject.model, ids, read))
    compared("brainpatch", tool("brainpatch"), THEIRS, f"logits of {name_of(subject)}, patch of its compiler", said)


@pytest.fixture
def steerkit(monkeypatch):
    """steerkit.probe. steerkit 0.3.0 imports a class that TransformerLens 4 removed; it is given its successor."""
    transformer_lens = pytest.importorskip("transformer_lens")
    monkeypatch.setitem(vars(transformer_lens), "HookedTransformer", transformer_lens.TransformerBridge)
    return pytest.importorskip("steerkit.probe")


@pytest.fixture
def probe(subject, steerkit):
    """A steerkit probe with a calibrated strength, as its `fit_all` and `calibrate_alpha` would leave it."""
    plan = plan_of(subject.model, (subject.middle,))
    vector = plan.interventions[0].move.vector
    block, length = subject.middle, float(vector.norm())
    fields = {"layer": block, "hook_site": "resid_post", "hook_name": f"blocks.{block}.hook_resid_post"}
    return steerkit.Probe(
        directions={"logistic": vector / length}, bias={}, metrics={}, model_id="owner/model", auto_alpha=1.5 * length,
        n_total_layers=Anatomy.of(subject.model).n_layers, **fields,
    )  # fmt: skip


def in_steerkit(probe, subject, ids: torch.Tensor) -> torch.Tensor:
    """The logits that steerkit's own hook gives in TransformerLens, which is what it runs on."""
    from steerkit.intervention import make_hook
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    model = copy.deepcopy(subject.model)
    bridge = TransformerBridge.boot_transformers("subject", device="cpu", hf_model=model, tokenizer=tokenizer)
    hook = make_hook("addition", probe.get_direction(None), alpha=probe.auto_alpha, target=None, gamma=None)
    with torch.inference_mode():
        return bridge.run_with_hooks(ids, fwd_hooks=[(probe.hook_name, hook)])


def test_steerkit_reads_ours(subject, ids, tmp_path, steerkit):
    plan, path = plan_of(subject.model, (subject.middle,)), tmp_path / "ours.probe.safetensors"
    FORMATS["steerkit"]().write(plan, path, ABOUT)
    said = assert_near(subject.model, ids, plan, in_steerkit(steerkit.Probe.load(path), subject, ids))
    compared("steerkit", tool("steerkit"), OURS, f"logits of {name_of(subject)} in TransformerLens", said)


@pytest.mark.parametrize("kind", ["probe.safetensors", "gguf"])
def test_we_read_steerkits(kind, subject, ids, probe, tmp_path):
    path = tmp_path / f"theirs.{kind}"
    if kind == "gguf":
        probe.export_gguf(path, scale=probe.auto_alpha)
    else:
        probe.save(path)
    read = FORMATS["gguf" if kind == "gguf" else "steerkit"]().read(path)
    said = assert_near(subject.model, ids, read, in_steerkit(probe, subject, ids))
    compared("gguf" if kind == "gguf" else "steerkit", tool("steerkit"), THEIRS, f"logits of {name_of(subject)}", said)


def test_an_uncalibrated_probe_has_steerkits_own_strength(probe, tmp_path):
    """`Probe.steer` adds twice the unit direction when nobody calibrated it."""
    replace(probe, auto_alpha=None).save(tmp_path / "theirs.probe.safetensors")
    (step,) = FORMATS["steerkit"]().read(tmp_path / "theirs.probe.safetensors").interventions
    torch.testing.assert_close(step.move.vector, 2 * probe.direction)


def assert_near(model, ids: torch.Tensor, plan: SteeringPlan, theirs: torch.Tensor) -> str:
    """Alike but for attention kernels that add up in another order, and a strength that is written with six digits."""
    ours = steered(model, ids, plan)
    assert (theirs - ours).abs().max() < 1e-3 * (ours - model(ids).logits).abs().max()
    return in_words(model, ids, ours, theirs)


def test_aisteer360(subject, ids, plan, tmp_path):
    """Not on PyPI: run where a checkout is on the path."""
    module = pytest.importorskip("aisteer360.algorithms.state_control._common.steering_vector")
    FORMATS["svec"]().write(plan, tmp_path / "ours.svec", ABOUT)
    loaded = module.SteeringVector.load(str(tmp_path / "ours.svec"))
    added = {step.site.block: step.strength * step.move.vector for step in plan.interventions}
    assert {block: rows.tolist() for block, rows in loaded.directions.items()} == {
        block: [vector.tolist()] for block, vector in added.items()
    }
    loaded.save(str(tmp_path / "theirs.svec"))
    said = assert_steers_alike(
        subject.model, ids, plan, steered(subject.model, ids, FORMATS["svec"]().read(tmp_path / "theirs.svec"))
    )
    compared("svec", AISTEER360, OURS, "vectors of `SteeringVector.load`", "equal to the bit")
    compared("svec", AISTEER360, THEIRS, f"logits of {name_of(subject)}, file of `SteeringVector.save`", said)


@pytest.mark.skipif("EASYSTEER_GGUF" not in os.environ, reason="needs a file of EasySteer's repository")
def test_we_read_easysteers(tmp_path):
    path = Path(os.environ["EASYSTEER_GGUF"])
    read = FORMATS["gguf"]().read(path)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    assert {f"direction.{s.site.block}": s.move.vector.tolist() for s in read.interventions} == {
        name: data.tolist() for name, data in tensors.items()
    }
    with pytest.raises(CannotExport, match="block 0"):
        FORMATS["gguf"]().write(replace(read, model=Fingerprint("qwen2", 28, 1, 1, 1, "")), tmp_path / "v.gguf", ABOUT)
    what = f"{len(tensors)} vectors of `{path.name}`, from block 0 on"
    compared("gguf", "EasySteer 2026-08", THEIRS, what, "equal to the bit; written again it is refused for block 0")
