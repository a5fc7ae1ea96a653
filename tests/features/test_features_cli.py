"""A features recipe on a tiny model, and what the command line makes of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimtab.flows.cli import main
from trimtab.steering.features.feature_set import FeatureSet
from trimtab.steering.model.embedded import embedded_folder
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.tasks.admin.offline import needs_hub
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.data.sentences import sentences_of
from trimtab.tasks.errors import DataError, RecipeError
from trimtab.tasks.features import rows as features_rows
from trimtab.tasks.features.choose import choose_features
from trimtab.tasks.features.fit import fit_features
from trimtab.tasks.features.rows import StoredBlocks, fit_rows, rows_in
from trimtab.tasks.features.views import feature_details, feature_rows, split_ref, tree_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans import steer as steer_task
from trimtab.tasks.recipes.kinds import load_recipe, make_recipe
from trimtab.tasks.reporting.features_page import features_page
from trimtab.tasks.reporting.features_report import write_features_page

RECIPES = Path(__file__).parents[2] / "recipes"
CONCEPTS = ("days", "food")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random Llama with the embedded model's tokenizer, two concepts, and a recipe."""
    where = tmp_path_factory.mktemp("features")
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(where / "tiny")
    tokenizer.save_pretrained(where / "tiny")
    for concept in CONCEPTS:
        (where / f"{concept}.jsonl").write_text((RECIPES / "concepts" / f"{concept}.jsonl").read_text())
    files = ", ".join(f"{concept}: {concept}.jsonl" for concept in CONCEPTS)
    (where / "features.yaml").write_text(
        f"name: tiny\nmodel: {where / 'tiny'}\ndata: {{concepts: {{{files}}}}}\nfeatures:\n  site: mlp_post.1\n"
        f"  max_iterations: 20\n  choose: {{ranks: [6, 10], sparsities: [0.2], max_iterations: 10}}\n  levels: [4]\n"
    )
    return where


@pytest.fixture(scope="module")
def recipe(folder):
    return load_recipe(folder / "features.yaml")


@pytest.fixture(scope="module")
def home(folder, recipe) -> Home:
    """A home in which the recipe was run once."""
    found = Home.at(folder / "home")
    capture = capture_recipe(recipe, found)
    curve = choose_features(recipe, found, capture)
    made = fit_features(recipe, found, capture, curve)
    assert (capture.ref, curve.ref, made.ref) == ("tiny.capture@1", "tiny.curve@1", "tiny@1")
    return found


def test_the_published_set_has_its_parents_readings_tree_and_concepts(home):
    artifact = home.catalog.get("tiny")
    assert [p.ref for p in artifact.parents] == ["tiny.capture@1", "tiny.curve@1"]
    found = FeatureSet.unpack(artifact)
    assert len(found) == artifact.metrics["rank"] in (6, 10)
    assert len(found.readings) == len(found) and all(found.labels)
    assert [len(level) for level in tree_of(found)] and found.levels[0].features.shape == (48, 4)
    assert {c["concept"] for c in found.report["concepts"]} == set(CONCEPTS)
    assert found.report["losses"] and found.settings["max_iterations"] == 20
    assert found.readings[0].promoted and found.readings[0].tops[0].token


def test_asking_again_computes_nothing(home, recipe, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    for module in ("collecting.capture", "features.fit"):
        monkeypatch.setattr(f"trimtab.tasks.{module}.model_of", refuse)
    capture = capture_recipe(recipe, home)
    curve = choose_features(recipe, home, capture)
    assert capture.reused and curve.reused and fit_features(recipe, home, capture, curve).reused


def test_the_rows_are_those_of_the_sentences_without_their_first_tokens(home, recipe):
    store = home.rows("tiny.capture")
    index, sentences = store.index, sentences_of(recipe.data)
    assert np.asarray(index.position).min() == 1 and index.n_prompts == len(sentences)
    assert list(index.split) == [s.split for s in sentences]


def test_blocks_from_the_store_give_what_rows_in_memory_give(home, recipe, monkeypatch):
    store = home.rows("tiny.capture")
    settings = recipe.features.settings(5, 0.2)
    whole = fit_rows(store, "mlp_post.1", ["fit"], settings)
    monkeypatch.setattr(features_rows, "IN_MEMORY", 0)
    streamed = fit_rows(store, "mlp_post.1", ["fit"], settings)
    torch.testing.assert_close(streamed.features, whole.features, rtol=1e-2, atol=1e-3)
    blocks = StoredBlocks(store, "mlp_post.1", features_rows.Where(split="fit"))
    assert sum(len(b) for b in blocks) == len(rows_in(store, "mlp_post.1", ["fit"])) == sum(len(b) for b in blocks)


def test_the_top_tokens_are_where_the_feature_is_strongest(home, recipe):
    """Read back by hand: capture row to text to token."""
    store, found = home.rows("tiny.capture"), home.catalog.get("tiny")
    features = FeatureSet.unpack(found)
    sentences = [s for s in sentences_of(recipe.data) if s.split in ("fit", "select")]
    top = features.readings[0].tops[0]
    assert top.token in top.before + top.token + top.after
    assert (top.before[-20:] + top.token + top.after[:20]).strip()[:15] in sentences[top.text].prompt
    assert store.n_rows > 100


def test_split_ref():
    assert split_ref("concepts@2:17") == ("concepts@2", 17)
    assert split_ref("concepts") == ("concepts", None) and split_ref("capture:abc") == ("capture:abc", None)


def test_listing_searching_sorting_and_one_feature(home, capsys):
    run = lambda *argv, code=0: (main(["--home", home.url, *argv]), capsys.readouterr())  # noqa: E731
    code, told = run("features", "tiny", "--json")
    rows = json.loads(told.out)
    assert code == 0 and [r["size"] for r in rows] == sorted((r["size"] for r in rows), reverse=True)
    by_firing = feature_rows(home, "tiny", "firing")
    assert [r["firing"] for r in by_firing] == sorted((r["firing"] for r in rows), reverse=True)
    word = rows[0]["tokens"][0]
    assert rows[0]["number"] in [r["number"] for r in feature_rows(home, "tiny", find=word)]
    assert not feature_rows(home, "tiny", find="no such thing anywhere")
    detecting = next(row for row in rows if row["detects"])
    assert detecting["number"] in [r["number"] for r in feature_rows(home, "tiny", find=detecting["detects"][0])]
    code, told = run("show", "tiny", "--feature", "2")
    assert code == 0 and "tiny@1:2" in told.out and "promoted:" in told.out and "[" in told.out
    assert json.loads(run("show", "tiny", "--feature", "2", "--json")[1].out) == json.loads(
        json.dumps(feature_details(home, "tiny", 2))
    )
    code, told = run("features", "tiny")
    assert code == 0 and "strongest tokens" in told.out
    code, told = run("ls", "--kind", "features")
    assert "tiny@1" in told.out and "rank" in told.out


def test_a_feature_steers_from_the_command_line(home, capsys):
    code = main(["--home", home.url, "steer", "tiny:1", "The day", "--tokens", "4", "--strength", "30", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["ref"] == "tiny@1:1" and told["answers"][0]["kl"] > 0
    code = main(["--home", home.url, "steer", "tiny:1", "The day", "--tokens", "4", "--kl", "0.005", "--json"])
    assert code == 0 and json.loads(capsys.readouterr().out)["strength"] > 0


def test_a_feature_is_shown_in_chat_where_the_tokenizer_has_a_template(home, capsys, monkeypatch):
    """A set of features comes from plain sentences; who steers with one talks to a chat model, unless --plain."""
    seen = []

    def watched(tokenizer, prompt, form):
        seen.append(form.chat)
        return tokenize(tokenizer, prompt, form=PromptFormat(chat=False))

    monkeypatch.setattr(steer_task, "tokenize", watched)
    _, tokenizer = model_of(make_recipe(home.catalog.get("tiny").recipe).model)
    for template in ("{{ messages }}", None):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        for argv in ((), ("--plain",), ("--chat",)):
            assert main(["--home", home.url, "steer", "tiny:1", "The day", "--tokens", "2", *argv]) == 0
    assert seen == [True, False, True, False, False, True]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("steer", "tiny", "Hello"), "say which feature, for example tiny@1:17"),
        (("steer", "tiny:99", "Hello"), "there is no feature 99"),
        (("steer", "tiny.capture:1", "Hello"), "is a capture, not a feature set"),
        (("features", "tiny.capture"), "is a capture, not a feature set"),
        (("features", "tiny", "--sort", "siz"), "did you mean 'size'"),
        (("show", "tiny", "--feature", "99"), "there is no feature 99"),
    ],
)
def test_mistakes_are_one_line(home, capsys, argv, message):
    assert main(["--home", home.url, *argv]) == 2
    told = capsys.readouterr()
    assert message in told.err and "Traceback" not in told.err and told.err.count("\n") == 1


def test_the_page_holds_everything_and_loads_nothing(home, tmp_path):
    text = write_features_page(home, "tiny", tmp_path / "page.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["features"]) == home.catalog.get("tiny").metrics["rank"]
    assert data["curve"] and data["tree"] and data["about"]["ref"] == "tiny@1"
    assert not re.search(r"(src|href)=.?(https?:)?//|@import|fetch\(", text) and "default-src &#x27;none" in text


def test_a_token_cannot_become_markup():
    reading = {"number": 0, "label": "</script><script>alert(1)</script>", "tops": [], "neurons": []}
    about = {"ref": "<b>@1", "site": "mlp_post.1", "concepts": [], "settings": {}, "parents": [], "metrics": {}}
    text = features_page(about, [reading], [], [])
    assert text.count("<script") == 2 and "<b>@1" not in text.split("<body>")[1].split("<script")[0]


def test_the_recipe_refuses_unknown_keys_and_wrong_values(folder):
    def load(*overrides: str):
        return load_recipe(folder / "features.yaml", overrides)

    for override, message in (
        ("features.rnk=3", "unknown key; did you mean 'rank'"),
        ("features.site=mlp_pst.1", "did you mean 'mlp_post'"),
        ("features.levels=[20]", "must fall"),
        ("features.choose.seeds=1", "features.choose.seeds"),
        ("data.concepts={}", "nothing to read activations from"),
        ("name=No Good", "name"),
    ):
        with pytest.raises(RecipeError, match=message):
            load(override)
    assert make_recipe(load().to_json()) == load()


def test_the_name_matters_to_no_stage_and_the_grid_not_to_the_capture(folder, recipe):
    renamed = load_recipe(folder / "features.yaml", ["name=other"])
    finer = load_recipe(folder / "features.yaml", ["features.choose.ranks=[6]"])
    for stage in ("capture", "choose", "features"):
        assert renamed.stage(stage) == recipe.stage(stage)
        assert (finer.stage(stage) == recipe.stage(stage)) == (stage == "capture")


def test_sentences_that_repeat_or_are_too_few_are_refused(folder, tmp_path):
    (tmp_path / "days.jsonl").write_text('{"text": "It is Monday."}\n' * 2)
    (tmp_path / "features.yaml").write_text("name: x\ndata: {concepts: {days: days.jsonl}}\nfeatures: {}\n")
    with pytest.raises(DataError, match="given 2 times"):
        sentences_of(load_recipe(tmp_path / "features.yaml").data)
    (tmp_path / "days.jsonl").write_text('{"text": "It is Monday."}\n')
    with pytest.raises(DataError, match="concept 'days': no sentence in the"):
        sentences_of(load_recipe(tmp_path / "features.yaml").data)


def test_the_shipped_recipe_is_complete():
    found = load_recipe(RECIPES / "features.yaml")
    sentences = sentences_of(found.data)
    assert len(found.data.concepts) >= 14 and {"days", "months", "languages", "numbers"} <= set(found.data.concepts)
    assert all(sum(s.concept == c for s in sentences) >= 20 for c in found.data.concepts)


def test_a_set_of_a_hub_model_is_known_to_need_the_hub(tmp_path):
    home = Home.at(tmp_path / "home")
    home.catalog.publish("far", "features", {}, {}, recipe={"name": "far", "model": {"id": "owner/name"}})
    assert needs_hub(["steer", "far:3", "Hello"], home.url) and not needs_hub(["steer", "near:3"], home.url)


@pytest.mark.prefect
def test_run_dispatches_to_the_features_flow(folder, tmp_path, capsys):
    argv = [
        "--home",
        str(tmp_path / "home"),
        "run",
        str(folder / "features.yaml"),
        "--set",
        "features.rank=5",
        "--json",
    ]
    assert main(argv) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["features"]["ref"] == "tiny@1" and made["curve"] is None and Path(made["page"]).is_file()
