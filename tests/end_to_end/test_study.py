"""A study on the tiny model: cells share activations, failures are rows, and a second run computes nothing."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import inside
from trimtab.steering import Packed, SteeringPlan
from trimtab.steering.errors import BadRows
from trimtab.steering.fitters.gradient import Gradient
from trimtab.store import Catalog
from trimtab.tasks.plans.fit import fit_key
from trimtab.tasks.recipes.kinds import load_recipe
from trimtab.tasks.studies.table import p_value, with_holm

pytestmark = [pytest.mark.slow]
QUICK = ["judge.placebos={random: 1, covariance: 1, shuffled: 1}", "judge.prompts=2", "judge.tokens=4"]
QUICK += ["judge.system_prompt=null", "judge.curve=[0.2]"]
LOFIT = "{fitter: lofit, fields: {heads: 3, scales: {steps: 2}, offsets: {steps: 4}}}"


@pytest.fixture
def study(tiny_recipe, tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: small\nbehaviours: [{tiny_recipe}]\nbudgets: [0.2]\nsettings: {json.dumps(QUICK)}\n"
        f"methods: [mean_difference, pca, {LOFIT}, gradient]\n"
    )
    return path


@pytest.mark.prefect
def test_a_study_is_one_table_of_verdicts(study, tiny_home, monkeypatch):
    def nothing(*arguments: object) -> None:
        raise BadRows("nothing to fit here")

    monkeypatch.setattr(Gradient, "fit", nothing)
    before = len([ref for ref in Catalog(tiny_home / "catalog").list() if ref.name == "tiny.placebos"])
    done = inside("study", str(study), "--json", home=tiny_home)
    assert done.code == 0, done.stderr
    made = json.loads(done.stdout)
    rows = {row["method"]: row for row in made["rows"]}
    mean, pca, lofit, gradient = rows
    assert (mean, pca, gradient) == ("mean_difference", "pca", "gradient") and lofit.startswith("lofit heads=3")
    assert rows["gradient"]["problem"] == "nothing to fit here"
    catalog = Catalog(tiny_home / "catalog")
    for name in (mean, pca, lofit):
        verdict = catalog.get(rows[name]["verdict"]).header["verdict"]
        assert rows[name]["margin"] == verdict["contenders"][0]["effect"]["margin"]
        nulls = [c for c in verdict["contenders"] if c["kind"] in ("random", "covariance")]
        assert rows[name]["of"] == len(nulls) == 2
        dosed = [p_value(c["difference"]) for c in nulls if c["reachable"]]
        assert rows[name]["p"] == (max(dosed) if dosed else None)
        assert {"plan", "shuffled", "flip"} <= {contender["kind"] for contender in verdict["contenders"]}
    artifact = catalog.get(rows[lofit]["verdict"])
    plan = SteeringPlan.unpack(Packed(artifact.arrays, artifact.header["plan"]))
    assert len(plan.sites) == 3 and all(site.head is not None for site in plan.sites)
    assert rows[lofit]["site"] == "+".join(map(str, plan.sites)), "a plan of many sites is judged like any other"
    assert catalog.get("small").kind == "study" and len(catalog.get("small").parents) == 3
    shared, own = (nulls_of(catalog, rows[name]["verdict"]) for name in (pca, lofit))
    kept = [ref for ref in catalog.list() if ref.name == "tiny.placebos"]
    assert len(kept) == before + 1, "those of many sites are their plan's alone"
    assert shared == nulls_of(catalog, rows[mean]["verdict"]) != own, "vectors at the same sites share their placebos"
    assert len([ref for ref in catalog.list() if ref.name == "tiny.capture"]) == 1, "cells share the activations"
    page = Path(made["report"]).read_text()
    assert "nothing to fit here" in page and lofit.replace('"', "&quot;") in page.replace("&#x27;", "'")
    again = inside("study", str(study), "--workers", "2", "--runner", "threads", home=tiny_home)
    assert again.code == 0 and again.stdout.splitlines()[0].split() == ["published", made["ref"]]


def nulls_of(catalog: Catalog, ref: str) -> list[tuple[float, dict[str, float]]]:
    """What the random and covariance-matched placebos of a verdict cost and do."""
    contenders = catalog.get(ref).header["verdict"]["contenders"]
    return [(c["kl"], c["effect"]["margin"]) for c in contenders if c["kind"] in ("random", "covariance")]


def test_methods_that_learn_fit_at_the_budget(tiny_recipe):
    cheap, dear = (load_recipe(tiny_recipe, ["fit.compare=[act, natural, lofit]", f"budget.kl={kl}"]) for kl in (1, 2))
    anew = [name for name in cheap.fit.fitters if fit_key(cheap, name) != fit_key(dear, name)]
    assert anew == ["natural", "lofit"], "vectors of rows are kept"


def test_mistakes_are_said_before_anything_runs(study, tmp_path):
    for text, message in (
        ("methods: [act, act]", "methods.1: 'act' stands here twice"),
        ("methods: [pcaa]", "unknown fitter 'pcaa'; did you mean 'pca'"),
        ("methods: [{fitter: pca, fields: {nonsense: 1}}]", "unknown field"),
        ("behaviours: [other.yaml]", "no such file"),
    ):
        key = text.partition(":")[0]
        lines = [line for line in study.read_text().splitlines() if not line.startswith(key)]
        (tmp_path / "wrong.yaml").write_text("\n".join([*lines, text]) + "\n")
        done = inside("study", str(tmp_path / "wrong.yaml"), home=tmp_path / "home")
        assert done.code == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "home").exists()


def test_p_values_of_intervals_and_their_correction_over_the_table():
    assert p_value({"mean": 1.959964, "low": 0.0, "high": 3.919928}) == pytest.approx(0.025, abs=1e-4)
    assert p_value({"mean": 0.0, "low": -1.0, "high": 1.0}) == 0.5
    assert p_value({"mean": 1.0, "low": 1.0, "high": 1.0}) == 0.0
    rows = with_holm([{"p": 0.01}, {"p": None}, {"p": 0.04}, {}])
    assert [row["p_holm"] for row in rows] == [0.02, None, 0.04, None]
