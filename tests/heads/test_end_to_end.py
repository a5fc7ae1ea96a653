"""`trimtab rank` and `trimtab ablate` on the hand-written transformer: ranking, verdict, plan, pages, as versions."""

import json
from html.parser import HTMLParser

import pytest
from ground_truth import as_rows, questions, saved
from reports import command_in

from trimtab.flows.cli import main
from trimtab.steering.causal.ranking import Ranking
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.store.catalog.lineage import lineage
from trimtab.store.verify import verify
from trimtab.tasks.home import Home

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    saved(folder / "model")
    for name, rows in (("copy", as_rows(questions(60))), ("other", as_rows(questions(40, seed=8)))):
        seen = {row["prompt"]: row for row in rows}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen.values()))
    path = folder / "copy.yaml"
    path.write_text("name: copy\nmodel: ./model\ntask: copy.jsonl\nothers: [other.jsonl]\n")
    return path


@pytest.fixture(scope="module")
def home(recipe, tmp_path_factory):
    """A home in which the recipe was ranked and tested."""
    found = tmp_path_factory.mktemp("home")
    assert main(["--home", str(found), "rank", str(recipe)]) == 0
    assert main(["--home", str(found), "ablate", "copy", "--top", "1", "--operator", "zero", "--random", "19"]) == 0
    return found


def run(home, capsys, *words):
    code = main(["--home", str(home), *words])
    return code, capsys.readouterr()


def test_the_ranking_is_a_version_that_names_the_head(home, capsys):
    artifact = Home.at(home).catalog.get("copy")
    assert artifact.kind == "ranking" and str(Ranking.unpack(artifact).top(1)[0]) == "z.1.3"
    code, said = run(home, capsys, "rank", str(artifact.recipe["task"]["path"]).replace(".jsonl", ".yaml"), "--json")
    assert code == 0 and json.loads(said.out)["reused"] is True


def test_the_verdict_is_a_version_whose_parent_is_the_ranking(home):
    catalog = Home.at(home).catalog
    tested, ranked = catalog.get("copy.ablation"), catalog.get("copy@1")
    assert [parent.ref for parent in tested.parents] == [ranked.ref]
    verdict = tested.header["verdict"]
    assert verdict["word"] == "redundant" and verdict["partners"][0]["unit"] == "z.2.1"
    assert verdict["units"] == ["z.1.3"] and len(verdict["necessity"]["random"]) == 19
    assert set(tested.header["others"]) == {"copy", "other"} and tested.header["off_target"]["tokens"] > 0
    assert tested.arrays["curve/without"].shape == (len(tested.header["curves"]["without"]["sizes"]), 24)
    assert "copy@1" in str(lineage(catalog, tested.ref))
    assert all(finding.ok for finding in verify(catalog))


def test_asking_twice_computes_nothing_twice(home, capsys):
    code, said = run(home, capsys, "ablate", "copy", "--top", "1", "--operator", "zero", "--random", "19", "--json")
    assert code == 0 and json.loads(said.out)["reused"] is True
    assert Home.at(home).catalog.versions("copy.ablation") == [1]


def test_the_pages_say_what_was_typed(recipe, home):
    """And it gives what they show: nothing is computed again."""
    given = ["--home", str(home)]
    assert command_in(home / "reports" / "copy@1.html") == [*given, "rank", str(recipe)]
    again = command_in(home / "reports" / "copy.ablation@1.html")
    assert again == [*given, "ablate", "copy@1", "--top", "1", "--operator", "zero", "--random", "19"]
    before = len(Home.at(home).catalog.list())
    assert main(again) == 0 and len(Home.at(home).catalog.list()) == before


def test_run_ranks_and_ablates_where_the_recipe_says_so(recipe, home, capsys):
    code, said = run(home, capsys, "run", str(recipe), "--json")
    assert code == 0 and json.loads(said.out)["ablation"] is None and json.loads(said.out)["reused"]
    test = "ablate={top: 1, operator: zero, random: 19}"  # what the fixture asked on the command line
    code, said = run(home, capsys, "run", str(recipe), "--set", test, "--json")
    result = json.loads(said.out)
    assert code == 0 and result["ranking"]["ref"] == "copy@1" and result["ablation"]["ref"] == "copy.ablation@1"
    assert result["reused"] and command_in(result["report"])[-2:] == ["--set", test]
    code, said = run(home, capsys, "run", str(recipe), "--set", test)
    assert code == 0 and "necessity" in said.out


def test_every_head_alone_with_corrections(home, capsys):
    code, said = run(home, capsys, "ablate", "copy", "--top", "2", "--random", "0", "--heads", "--json")
    found = json.loads(said.out)["heads"]
    assert code == 0 and len(found["units"]) == 24
    best = min(zip(found["holm"], [-d for d in found["drop"]], found["units"], strict=True))
    assert best[2] in ("z.0.2", "z.1.3") and best[0] < 0.05


def test_a_plan_of_heads_is_published_beside_random_heads(home, capsys):
    code, said = run(home, capsys, "ablate", "copy", "--top", "1", "--steer", "0.02", "--random", "19", "--json")
    made = json.loads(said.out)
    assert code == 0 and made["metrics"]["gain"]["low"] > 0 and "random head sets" in made["metrics"]["sentence"]
    artifact = Home.at(home).catalog.get(made["ref"])
    (step,) = SteeringPlan.unpack(artifact).interventions
    assert artifact.kind == "plan" and str(step.site) == "z.1.3"
    assert [parent.ref for parent in artifact.parents] == ["copy@1"]
    code, said = run(home, capsys, "steer", made["ref"], ". a b c d b", "--tokens", "1", "--strength", "-20", "--json")
    (answer,) = json.loads(said.out)["answers"]
    assert code == 0 and answer["base"].strip() == "c" and answer["steered"].strip() != "c"


class Loads(HTMLParser):
    """What a page would fetch, and its text."""

    def __init__(self):
        super().__init__()
        self.fetched, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]

    def handle_data(self, data):
        self.words.append(data)


def test_the_pages_stand_alone_and_say_what_was_found(home):
    pages = sorted(Home.at(home).reports.glob("*.html"))
    assert {page.name for page in pages} >= {"copy@1.html", "copy.ablation@1.html"}
    for page in pages:
        seen = Loads()
        seen.feed(page.read_text())
        text = " ".join(seen.words)
        assert not seen.fetched and "z.1.3" in text and "Stability" not in text
    sentence = Home.at(home).catalog.get("copy.ablation@1").header["verdict"]["sentence"]
    assert sentence in (Home.at(home).reports / "copy.ablation@1.html").read_text()


def test_seeds_of_gating_are_drawn(recipe, tmp_path):
    fields = "rank.fields={seeds: 2, steps: 6}"
    done = main(
        ["--home", str(tmp_path), "rank", str(recipe), "--set", "rank.method=causal_head_gating", "--set", fields]
    )
    assert done == 0
    text = (Home.at(tmp_path).reports / "copy@1.html").read_text()
    assert "seed 1" in text and "The same in every seed?" in text and "inconsistent" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "rank.methd=relp"], "rank.methd: unknown key; did you mean 'method'"),
        (["--set", "rank.method=reelp"], "rank.method: unknown localiser 'reelp'; did you mean 'relp'"),
        (["--set", "rank.fields.sedes=3"], "rank.fields.sedes: unknown field"),
        (["--set", "task=nothing.jsonl"], "no such file"),
        (["--set", "rank.questions=2"], "rank.questions"),
        (["--set", "name=A b"], "name"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(recipe, tmp_path, capsys, words, says):
    code, said = run(tmp_path, capsys, "rank", str(recipe), *words)
    assert code == 2 and says in said.err and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing"),
        (["copy.ablation"], "is of kind ablation, not a ranking"),
        (["copy", "--operator", "zeroo"], "unknown operator 'zeroo'"),
        (["copy", "--top", "99"], "--top 99"),
        (["copy", "--top", "0"], "--top 0"),
        (["copy", "--random", "5"], "--random 5"),
        (["copy", "--steer", "-1"], "--kl -1"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(home, capsys, words, says):
    code, said = run(home, capsys, "ablate", *words)
    assert code == 2 and says in said.err and "Traceback" not in said.err
