"""A published plan under a gate and under a controller, through the command line, on a tiny model."""

import json
from pathlib import Path

import pytest
from reports import command_in

from tests.end_to_end.conftest import ROOT, inside, settings
from trimtab.steering.errors import SteeringError
from trimtab.steering.moves.gated import Gated
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store import Catalog
from trimtab.store.errors import StoreError
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.plans.condition import condition_recipe
from trimtab.tasks.plans.steer import recipe_of_plan
from trimtab.tasks.recipes.kinds import read_recipe

pytestmark = [pytest.mark.slow, pytest.mark.prefect]
SMALL = ["judge.prompts=6", "judge.tokens=8", "condition.false_positive_rate=0.5"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("condition")
    file = folder / "recipe.yaml"
    file.write_text(
        f"name: tiny-when\nplan: tiny@1\ndata:\n  prompts: {ROOT / 'recipes/food_gate.jsonl'}\n"
        "condition: {kind: linear, blocks: 0-2}\n"
    )
    return file


@pytest.fixture(scope="module")
def gated(recipe, tiny_home, prefect_backend) -> dict:
    done = inside("run", str(recipe), "--json", *settings(SMALL), home=tiny_home)
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_gated_plan_is_published_with_its_evidence(gated, tiny_home):
    catalog = Catalog(tiny_home / "catalog")
    plan = SteeringPlan.unpack(catalog.get(gated["plan"]["ref"]))
    assert all(isinstance(step.move, Gated) for step in plan.interventions)
    header = catalog.get("tiny-when.selectivity").header
    names = [one["name"] for one in header["contenders"]]
    assert names == ["fixed", "fixed, same mean KL", "gated"]
    fixed, same, shut = header["contenders"]
    assert shut["unwanted"]["touched"] < fixed["unwanted"]["touched"] == 1.0
    assert 0 < same["mean_kl"] < fixed["mean_kl"]
    lineage = inside("lineage", "tiny-when", home=tiny_home).stdout
    assert "tiny@1" in lineage and "tiny-when.selectivity@1" in lineage
    page = Path(gated["report"]).read_text()
    assert "What it does where it is wanted" in page and "http" not in page.split("</style>")[1].split("<script")[0]


def test_a_conditional_plan_carries_its_own_recipe(gated, recipe, tiny_home):
    """Not its parent's: what was asked of the condition, and beside it the form in which prompts are put."""
    catalog = Catalog(tiny_home / "catalog")
    plan, evidence = catalog.get("tiny-when@1"), catalog.get("tiny-when.selectivity@1")
    asked = read_recipe(recipe, SMALL)
    for artifact in (plan, evidence):
        assert artifact.recipe == asked.model_dump(mode="json")
    assert recipe_of_plan(plan).to_json() == catalog.get("tiny@1").recipe
    again = command_in(gated["report"])
    assert again[2:] == ["run", str(recipe), *settings(SMALL)] and Path(again[1]) == tiny_home


def test_a_plan_is_conditioned_once(gated, recipe, tiny_home):
    with pytest.raises(RecipeError, match="tiny-when@1 acts under a condition already"):
        condition_recipe(read_recipe(recipe, [*SMALL, "plan=tiny-when@1"]), Home.at(tiny_home))


def test_asking_twice_computes_nothing_and_the_plan_steers(gated, recipe, tiny_home):
    again = inside("run", str(recipe), "--json", *settings(SMALL), home=tiny_home)
    assert json.loads(again.stdout)["reused"]
    done = inside("steer", "tiny-when", "How do I boil rice?", "--tokens", "4", "--json", home=tiny_home)
    assert done.code == 0, done.stderr


def test_a_controller_is_trained_and_published(recipe, tiny_home):
    asked = [*SMALL, "condition.kind=controller", "controller.steps=4", "controller.tokens=6"]
    asked += ["condition.false_positive_rate=0.9"]  # a random model has nothing to tell the prompts apart by
    asked += ["controller.patch=tiny.mean_difference@1", "controller.blocks=1-2", "name=tiny-controlled"]
    done = inside("run", str(recipe), "--json", *settings(asked), home=tiny_home)
    assert done.code == 0, done.stderr
    catalog = Catalog(tiny_home / "catalog")
    about = catalog.get("tiny-controlled.selectivity").header["about"]
    assert len(about["history"]) == 4 and set(about["weights"]) == {"resid_post.1", "resid_post.2"}
    steps = SteeringPlan.unpack(catalog.get("tiny-controlled")).interventions
    assert len({id(step.move.gate.network) for step in steps}) == 1


BAD = {
    "an unknown plan": (["plan=nothing@1"], "nothing"),
    "a plan that is none": (["plan=tiny.capture@1"], "for a published plan"),
    "an unknown kind": (["condition.kind=linaer"], "condition.kind"),
    "a rate that is none": (["condition.false_positive_rate=0"], "greater than 0"),
    "a promise too far": (["condition.false_positive_rate=0.001"], "999 or more"),
    "an unknown key": (["condition.polo=1"], "unknown key"),
    "a block that is none": (["condition.blocks=9"], "9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_publishes_nothing(case, recipe, tiny_home):
    overrides, said = BAD[case]
    home = Home.at(tiny_home)
    before = [a.ref for a in home.catalog.list()]
    with pytest.raises((RecipeError, StoreError, SteeringError)) as error:
        condition_recipe(read_recipe(recipe, overrides), home)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert [a.ref for a in home.catalog.list()] == before


def test_the_command_line_says_it_in_one_line(recipe, tiny_home):
    done = inside("run", str(recipe), *settings(["condition.blocks=9"]), home=tiny_home)
    assert done.code == 2 and "Traceback" not in done.stderr, done.stderr
    assert "9" in done.stderr.strip().splitlines()[-1]
