"""`trimtab import`: every format comes back as a published plan that steers alike, or there is one line that says why
not and nothing is published."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.end_to_end.conftest import inside
from trimtab.steering.export import FORMATS, About
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site
from trimtab.steering.moves.add import Add
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store import Catalog
from trimtab.tasks.admin.offline import needs_hub

IDS = torch.tensor([[7, 3, 52, 11]])


@pytest.fixture(scope="module")
def folder(build_tiny, tmp_path_factory) -> Path:
    """A tiny llama with a tokenizer of 61 words."""
    folder = tmp_path_factory.mktemp("tiny-model")
    build_tiny("llama").save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(61)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(folder)
    return folder


def plan_on(model, block: int = 1, width: int | None = None) -> SteeringPlan:
    anatomy = Anatomy.of(model)
    vector = torch.randn(width or anatomy.d_model, generator=torch.Generator().manual_seed(3))
    return SteeringPlan((Intervention(Site("resid_post", block), Add(vector), strength=1.5),), anatomy.fingerprint)


def written(name: str, plan: SteeringPlan, folder: Path) -> Path:
    path = folder / f"theirs{FORMATS[name].suffix}"
    FORMATS[name]().write(plan, path, About("theirs", "owner/model"))
    return path


def published(home: Path):
    return Catalog(home / "catalog").get("theirs")


@pytest.mark.parametrize("told", [False, True], ids=["by its look", "--from"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_comes_back_as_a_plan_that_steers_alike(name, told, build_tiny, folder, tmp_path):
    model, home = build_tiny("llama"), tmp_path / "home"
    plan = plan_on(model)
    path = written(name, plan, tmp_path)
    choice = ["--from", name.replace("_", "-")] if told else []
    done = inside("import", str(path), "--model", str(folder), "--as", "theirs", *choice, home=home)
    assert done.code == 0, done.stderr
    assert "no price" in done.stdout
    artifact = published(home)
    assert artifact.kind == "plan" and artifact.recipe["kind"] == "imported" and not artifact.metrics
    assert len(artifact.recipe["source"]["sha256"]) == 64
    there = SteeringPlan.unpack(artifact)
    assert there.model == Anatomy.of(model).fingerprint
    with torch.inference_mode():
        with plan.on(model):
            want = model(IDS).logits
        with there.on(model):
            torch.testing.assert_close(model(IDS).logits, want, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(IDS).logits, want, atol=0.01)


def test_it_is_published_once_steers_and_leaves_again(build_tiny, folder, tmp_path):
    home, path = tmp_path / "home", written("svec", plan_on(build_tiny("llama")), tmp_path)
    for said in ("theirs@1;", "theirs@1 already;"):
        done = inside("import", str(path), "--model", str(folder), "--as", "theirs", home=home)
        assert done.code == 0 and said in done.stdout
    steered = inside("steer", "theirs", "w3 w4", "--tokens", "3", home=home)
    assert steered.code == 0, steered.stderr
    assert inside("export", "theirs", str(tmp_path / "again"), "--to", "hf", home=home).code == 0
    assert "Nothing was measured" in (tmp_path / "again" / "README.md").read_text()
    for view in (["show", "theirs"], ["lineage", "theirs"], ["ls"], ["verify"]):
        assert inside(*view, home=home).code == 0, view


REFUSED = {
    "a block that is not there": (lambda m: plan_on(m, block=7), "svec", "has 3 blocks"),
    "another width": (lambda m: plan_on(m, width=8), "svec", "width 8"),
    "another family, in a GGUF": (lambda m: plan_on(m), "repeng", "says it is for a qwen2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_published(case, build_tiny, folder, tmp_path):
    make, name, said = REFUSED[case]
    plan = make(build_tiny("qwen2" if "family" in case else "llama"))
    path = written(name, plan, tmp_path)
    done = inside("import", str(path), "--model", str(folder), "--as", "theirs", home=tmp_path / "home")
    assert done.code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "home").exists()


def test_a_word_that_names_no_family_refuses_nothing(build_tiny, folder, tmp_path):
    plan = plan_on(build_tiny("llama"))
    path = written("repeng", replace(plan, model=replace(plan.model, model_type="qwen")), tmp_path)  # as EasySteer does
    done = inside("import", str(path), "--model", str(folder), "--as", "theirs", home=tmp_path / "home")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.gguf", b"not a gguf", "is not a GGUF file"),
        ("a.pt", b"not torch", "steering_vectors"),
        ("a.unknown", b"", "no suffix of a known format"),
        ("a.spipe", b"", "not in the file; save the vector itself there"),
        ("none.svec", None, "does not exist"),
    ],
)
def test_files_of_something_else_are_one_line(name, content, said, folder, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = inside("import", str(path), "--model", str(folder), "--as", "x", home=tmp_path / "home")
    assert done.code == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "home").exists()


def test_a_recipe_file_cannot_be_of_this_kind(tmp_path):
    (tmp_path / "a.yaml").write_text("kind: imported\nname: a\n")
    done = inside("run", str(tmp_path / "a.yaml"), home=tmp_path / "home")
    assert done.code == 2 and "unknown kind 'imported'" in done.stderr


@pytest.mark.parametrize("arguments", [["--model", "owner/name"], ["--model=owner/name"]])
def test_a_hub_model_is_asked_of_the_hub(arguments, tmp_path):
    assert needs_hub(["a.svec", *arguments], str(tmp_path))
    assert not needs_hub(["a.svec", "--model", "smollm2"], str(tmp_path))
