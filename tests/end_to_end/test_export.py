"""A published plan leaves the catalog as files of other tools, to the Hub and as a checkpoint, by the command line."""

import os

import huggingface_hub.constants as hub_constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.end_to_end.conftest import inside
from tests.export.fake_hub import COMMIT, hub_here  # noqa: F401
from trimtab.steering import SteeringPlan
from trimtab.steering.export import FORMATS
from trimtab.store import Catalog
from trimtab.tasks.admin.offline import needs_hub
from trimtab.tasks.recipes.kinds import read_recipe

IDS = torch.tensor([[5, 6, 7, 8]])


def plan_in(home) -> SteeringPlan:
    return SteeringPlan.unpack(Catalog(home / "catalog").get("tiny@1"))


@pytest.mark.parametrize("tool", sorted(FORMATS))
def test_every_format_holds_the_plan_on_every_token(tool, tiny_home, tmp_path):
    path = tmp_path / f"tiny{FORMATS[tool].suffix}"
    done = inside("export", "tiny@1", str(path), "--to", tool.replace("_", "-"), "--every-token", home=tiny_home)
    if tool == "gguf" and plan_in(tiny_home).sites[0].block == 0:
        assert done.code == 2 and "block 0" in done.stderr
        return
    assert done.code == 0, done.stderr
    (written,) = FORMATS[tool]().read(path).interventions
    (published,) = plan_in(tiny_home).interventions
    torch.testing.assert_close(written.strength * written.move.vector, published.strength * published.move.vector)
    again = inside("export", "tiny@1", str(path), "--to", tool, home=tiny_home)
    assert again.code == 2 and "overwritten" in again.stderr


def test_a_span_that_a_tool_does_not_know_is_refused(tiny_home, tmp_path):
    done = inside("export", "tiny@1", str(tmp_path / "a.svec"), "--to", "svec", home=tiny_home)
    assert done.code == 2 and "'answer'" in done.stderr and "--every-token" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_card_says_when_the_numbers_do_not_hold(tiny_home, tmp_path):
    for name, arguments in (("as-is", ()), ("other", ("--every-token", "--strength", "2"))):
        assert inside("export", "tiny@1", str(tmp_path / name), "--to", "hf", *arguments, home=tiny_home).code == 0
    as_is, other = ((tmp_path / name / "README.md").read_text() for name in ("as-is", "other"))
    assert "KL(steered" in as_is and "do not hold" not in as_is
    assert "do not hold of this file: it steers at 2 times the published strength and on every token" in other


def test_a_folded_checkpoint_answers_as_the_plan_steers(tiny_home, tiny_recipe, tmp_path):
    done = inside("fold", "tiny@1", str(tmp_path / "folded"), "--every-token", home=tiny_home)
    assert done.code == 0, done.stderr
    base = AutoModelForCausalLM.from_pretrained(read_recipe(tiny_recipe).model.id)
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "folded")
    with torch.inference_mode(), plan_in(tiny_home).spanning("all").on(base):
        steered = base(IDS).logits
    with torch.inference_mode():
        torch.testing.assert_close(folded(IDS).logits, steered, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(base(IDS).logits, steered, atol=1e-2)


def test_what_no_weights_can_hold_is_refused_and_nothing_is_written(tiny_home, tmp_path):
    done = inside("fold", "tiny@1", str(tmp_path / "folded"), home=tiny_home)
    assert done.code == 2 and "span 'answer'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_line_pushes(tiny_home, hub_here, monkeypatch):  # noqa: F811
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = inside("export", "tiny@1", "--to", "hf", "--push", "me/tiny", "--licence", "MIT", home=tiny_home)
    assert done.code == 0, done.stderr
    assert "HF_HUB_OFFLINE" not in os.environ, "in a process of its own the Hub's client would refuse"
    assert done.stdout.strip() == f"tiny@1 is at {hub_constants.ENDPOINT}/me/tiny/commit/{COMMIT}"
    card = hub_here.repositories["me/tiny"]["README.md"].decode()
    for said in ("## The verdict", "## Price", "## Placebos", "## What it does not do", 'license: "mit"'):
        assert said in card
    assert 'from_pretrained("me/tiny")' in card


def test_what_belongs_together_on_the_command_line(tiny_home):
    for arguments, said in (
        ([], "--push OWNER/NAME"),
        (["x.gguf"], "name the format"),
        (["--to", "gguf", "--push", "me/tiny"], "the Hub takes --to hf alone"),
    ):
        done = inside("export", "tiny@1", *arguments, home=tiny_home)
        assert done.code == 2 and said in done.stderr


def test_a_repository_of_the_hub_is_imported(tiny_home, hub_here):  # noqa: F811
    plan, model = plan_in(tiny_home), Catalog(tiny_home / "catalog").get("tiny@1").recipe["model"]["id"]
    plan.push_to_hub("me/tiny")
    done = inside("import", "me/tiny", "--model", model, "--as", "back", home=tiny_home)
    assert done.code == 0, done.stderr
    back = Catalog(tiny_home / "catalog").get("back")
    assert back.recipe["source"]["path"] == "hf://me/tiny"
    assert SteeringPlan.unpack(back).pack().header == plan.pack().header
    assert needs_hub(["import", "me/tiny"], str(tiny_home)) and not needs_hub(["import", "me.svec"], str(tiny_home))
