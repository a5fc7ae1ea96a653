"""Recipes: what is read, what the digests see, and what the data files' rows become."""

import json
import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from trimtab.steering.errors import SteeringError
from trimtab.tasks.admin.methods import methods
from trimtab.tasks.admin.starter import write_starter
from trimtab.tasks.data.examples import Example, each_pair, each_text, examples_of
from trimtab.tasks.data.files import SHIPPED
from trimtab.tasks.data.judging import capability_pairs, known_questions, neutral_texts
from trimtab.tasks.data.marked_prompts import marked_prompts
from trimtab.tasks.data.sections import split_of
from trimtab.tasks.errors import DataError, RecipeError
from trimtab.tasks.plans.validate import settings_of
from trimtab.tasks.recipes.kinds import kind_of, load_recipe, make_recipe, read_recipe
from trimtab.tasks.recipes.sections import LANGUAGES
from trimtab.tasks.recipes.yaml import read_document

ALL = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
KIND = {path: kind_of(read_document(path).data) for path in ALL}
RECIPES = [path for path in ALL if KIND[path] == "behaviour"]
STAGES = ("capture", "fit", "validate")
WHOLE = """\
name: tone
model: {id: smollm2, dtype: bfloat16}
data:
  pairs: pairs.jsonl
  split: {fit: 0.4, select: 0.3, report: 0.3, seed: 3}
capture: {points: [z, resid_post], blocks: 8-10, span: generated}
fit: {fitter: logistic_probe, fields: {c: 0.5}, compare: [mean_difference], span: "after:3"}
budget: {kl: 0.25}
judge: {behaviour: {metric: language, language: fr}, curve: [0.3, 0.1], prompts: 4}
seed: 7
"""


def pairs(n: int = 24) -> list[dict]:
    return [{"prompt": f"Question {k}?", "positive": f"Yes, {k}!", "negative": f"No, {k}."} for k in range(n)]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe and its data."""
    write_rows(tmp_path / "pairs.jsonl", pairs())
    (tmp_path / "recipe.yaml").write_text(WHOLE)
    return tmp_path


def test_a_recipe_is_read_whole(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.capture.points == ("resid_post", "z")  # in one order, however they are written
    assert recipe.capture.block_numbers(30) == [8, 9, 10]
    assert recipe.fit.fitters == ("logistic_probe", "mean_difference")
    assert recipe.fit.span == "after:3"
    assert recipe.judge.curve == (0.1, 0.3)
    assert recipe.data.pairs.path == str(folder / "pairs.jsonl")
    assert recipe.seed == 7


def test_only_name_and_data_are_needed(folder):
    (folder / "small.yaml").write_text("name: small\ndata: {pairs: pairs.jsonl}\n")
    recipe = load_recipe(folder / "small.yaml")
    assert (recipe.model.id, recipe.capture.blocks, recipe.fit.fitter) == ("smollm2", "all", "mean_difference")
    assert recipe.capture.block_numbers(3) == [0, 1, 2]
    assert (recipe.budget.kl, recipe.judge.behaviour) == (0.1, None)


def test_a_block_that_the_model_lacks_is_named(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    with pytest.raises(SteeringError, match=r"9 blocks, 0 to 8; not 9"):
        recipe.capture.block_numbers(9)


@pytest.mark.parametrize("text, numbers", [("8-10", (8, 9, 10)), ("[4, 2]", (2, 4)), ("5", (5,)), ("0,2-3", (0, 2, 3))])
def test_ways_to_write_blocks(folder, text, numbers):
    assert load_recipe(folder / "recipe.yaml", [f"capture.blocks={text}"]).capture.blocks == numbers


def test_overrides(folder):
    settings = ["budget.kl=0.5", "model.dtype=float32", "judge.placebos.random=3", "data.chat=false", "name=other"]
    recipe = load_recipe(folder / "recipe.yaml", settings)
    assert (recipe.budget.kl, recipe.model.dtype, recipe.judge.placebos.random) == (0.5, "float32", 3)
    assert (recipe.data.chat, recipe.name) == (False, "other")


def test_roll_outs_are_drawn_as_the_recipe_says(folder):
    settings = ["budget.sampling.temperature=0.6", "budget.sampling.top_p=0.95", "budget.sampling.top_k=20"]
    plain, drawn = load_recipe(folder / "recipe.yaml"), load_recipe(folder / "recipe.yaml", settings)
    assert plain.stage("validate") != drawn.stage("validate") and plain.stage("fit") == drawn.stage("fit")
    for recipe, words in ((plain, "temperature 1"), (drawn, "temperature 0.6, top-k 20, top-p 0.95")):
        judged = settings_of(recipe)
        assert str(judged.dose.decoding.sampling) == str(judged.price.decoding.sampling) == words
    with pytest.raises(RecipeError, match="top_p"):
        load_recipe(folder / "recipe.yaml", ["budget.sampling.top_p=0"])


def test_an_override_of_the_shorthand_model_keeps_its_id(folder):
    (folder / "short.yaml").write_text("name: short\nmodel: smollm2\ndata: {pairs: pairs.jsonl}\n")
    model = load_recipe(folder / "short.yaml", ["model.dtype=bfloat16"]).model
    assert (model.id, model.dtype) == ("smollm2", "bfloat16")


def test_recipes_are_frozen(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    with pytest.raises(ValueError, match="frozen"):
        recipe.budget.kl = 1.0


def test_round_trip_through_json(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    again = make_recipe(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest == recipe.digest


def test_a_recipe_in_the_catalog_is_read_back_without_its_files(folder):
    """Steering with a published plan must not need the data it was fitted on."""
    kept = load_recipe(folder / "recipe.yaml").to_json()
    shutil.rmtree(folder)
    assert make_recipe(kept).model.dtype == "bfloat16"


def test_paths_never_enter_a_digest(folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "deep"
    shutil.copytree(folder, moved)
    (moved / "pairs.jsonl").rename(moved / "renamed.jsonl")
    here = load_recipe(folder / "recipe.yaml")
    there = load_recipe(moved / "recipe.yaml", ["data.pairs=renamed.jsonl"])
    assert here.digest == there.digest
    assert [here.stage(s) for s in STAGES] == [there.stage(s) for s in STAGES]
    assert str(folder) not in json.dumps(here.canonical())


def test_a_file_that_changed_changes_every_digest(folder):
    before = load_recipe(folder / "recipe.yaml")
    rows = pairs()
    write_rows(folder / "pairs.jsonl", [{**rows[0], "positive": "Yes indeed!"}, *rows[1:]])
    after = load_recipe(folder / "recipe.yaml")
    assert all(before.stage(s) != after.stage(s) for s in STAGES)


@pytest.mark.parametrize(
    "setting, kept",
    [
        ("name=other", STAGES),
        ("budget.kl=0.9", ("capture", "fit")),
        ("judge.prompts=5", ("capture", "fit")),
        ("judge.behaviour=null", ("capture", "fit")),
        ("seed=8", ("capture",)),
        ("fit.pool=last", ("capture",)),
        ("fit.fields.c=2.0", ("capture",)),
        ("fit.compare=[]", ("capture",)),
        ("capture.blocks=8-11", ()),
        ("capture.dtype=float32", ()),
        ("model.dtype=float32", ()),
        ("model.device=cuda:0", ()),
        ("data.chat=false", ()),
        ("data.split.seed=4", ()),
    ],
)
def test_a_stage_sees_just_what_matters(folder, setting, kept):
    before, after = load_recipe(folder / "recipe.yaml"), load_recipe(folder / "recipe.yaml", [setting])
    assert tuple(s for s in STAGES if before.stage(s) == after.stage(s)) == kept
    assert before.digest != after.digest


def test_stages_differ_from_each_other(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    assert len({recipe.digest, *(recipe.stage(s) for s in STAGES)}) == 4


def test_two_gpus_are_one_kind_of_device(folder):
    first, second = (load_recipe(folder / "recipe.yaml", [f"model.device=cuda:{k}"]) for k in (0, 1))
    assert first.stage("capture") == second.stage("capture")


def test_defaults_written_out_change_no_digest(folder):
    settings = ["fit.point=resid_post", "capture.dtype=float16", "budget.tolerance=0.1", "capture.blocks=[10,8,9]"]
    assert load_recipe(folder / "recipe.yaml").digest == load_recipe(folder / "recipe.yaml", settings).digest


def test_questions_with_known_answers(folder):
    (folder / "qa.jsonl").write_text('{"question": "2 + 3?", "answer": "5"}\n{"question": "3 + 3?", "answer": "6"}\n')
    asking = ["judge.questions=qa.jsonl"]
    plain, asked = load_recipe(folder / "recipe.yaml"), load_recipe(folder / "recipe.yaml", asking)
    assert known_questions(plain.judge.questions) == ()
    assert [one.completion for one in known_questions(asked.judge.questions)] == ["5", "6"]
    assert asked.stage("fit") == plain.stage("fit") and asked.stage("validate") != plain.stage("validate")
    (folder / "qa.jsonl").write_text('{"question": "2 + 3?"}\n')
    with pytest.raises(DataError, match="qa.jsonl:1: .*answer"):
        load_recipe(folder / "recipe.yaml", asking)


def test_a_model_folder_counts_by_its_content(folder):
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    shutil.copytree(model, folder / "copy")
    first = load_recipe(folder / "recipe.yaml", ["model=./model"])
    copied = load_recipe(folder / "recipe.yaml", ["model=./copy"])
    (folder / "copy" / "model.safetensors").write_bytes(b"WEIGHTS")
    assert first.model.local
    assert first.model.id == str(model)
    assert first.stage("capture") != load_recipe(folder / "recipe.yaml", ["model=./copy"]).stage("capture")
    (folder / "copy" / "model.safetensors").write_bytes(b"weights")
    assert first.stage("capture") == copied.stage("capture")


def test_hub_ids_are_not_local(folder):
    model = load_recipe(folder / "recipe.yaml", ["model=owner/name", "model.revision=abc"]).model
    assert (model.local, model.revision) == (False, "abc")


def test_every_mistake_is_one_line_with_its_place(folder):
    bad = WHOLE.replace("dtype: bfloat16", "dtpye: bfloat16").replace("kl: 0.25", "kl: 1e-3").replace("fr}", "xx}")
    (folder / "bad.yaml").write_text(bad)
    with pytest.raises(RecipeError) as error:
        load_recipe(folder / "bad.yaml")
    places = [re.match(r".*bad\.yaml:(\d+): ([\w.]+): ", line) for line in error.value.lines]
    assert [(int(p[1]), p[2]) for p in places] == [
        (2, "model.dtpye"),
        (8, "budget.kl"),
        (9, "judge.behaviour.language"),
    ]
    assert "did you mean 'dtype'?" in error.value.lines[0]
    assert "1.0e-3" in error.value.lines[1]


def test_a_mistake_in_an_override_is_told_of_the_override(folder):
    with pytest.raises(RecipeError, match=r"^--set budget.kl=-1: budget.kl: must be greater than or equal to"):
        load_recipe(folder / "recipe.yaml", ["budget.kl=-1"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_with_trimtab(path):
    recipe = load_recipe(path)
    examples = examples_of(recipe.data)
    assert recipe.name == path.stem
    assert sum(example.label > 0 for example in examples) >= 150


@pytest.mark.parametrize("path", [path for path in ALL if KIND[path] == "condition"], ids=lambda path: path.stem)
def test_the_conditions_that_come_with_trimtab(path):
    recipe = read_recipe(path)
    examples = marked_prompts(recipe.data)
    assert recipe.name == path.stem
    counts = Counter((example.split, example.label) for example in examples)
    for split, label in product(("fit", "select", "report"), (1, -1)):
        assert counts[split, label] >= 12, "too few to fit, to promise a rate, or to report"


def test_the_starter_is_a_recipe(tmp_path):
    write_starter(tmp_path / "mine")
    recipe = load_recipe(tmp_path / "mine" / "recipe.yaml")
    assert Counter(e.label for e in examples_of(recipe.data)) == {1: 24, -1: 24}


def test_packaged_files(folder):
    judge = load_recipe(folder / "recipe.yaml").judge
    assert len(neutral_texts(judge.neutral)) >= 50
    assert len(capability_pairs(judge.capability)) >= 50
    assert tuple(json.loads((SHIPPED / "function_words.json").read_text())) == LANGUAGES


# ---- data files


def test_pairs_and_whole_texts(tmp_path):
    first, *_ = each_pair(write_rows(tmp_path / "a.jsonl", pairs()))
    whole = [{"positive": f"good {k}", "negative": f"bad {k}"} for k in range(8)]
    assert first == (Example("Question 0?", "Yes, 0!", 1), Example("Question 0?", "No, 0.", -1))
    first, *_ = each_pair(write_rows(tmp_path / "b.jsonl", whole))
    assert first == (Example("good 0", None, 1), Example("bad 0", None, -1))


def test_class_rows(tmp_path):
    user, answer = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}
    rows = [{"text": f"some text {k}"} for k in range(8)]
    rows += [{"prompt": "Hello", "completion": "Hi"}, {"messages": [user, answer]}, {"messages": [user]}]
    examples = list(each_text(write_rows(tmp_path / "c.jsonl", rows)))
    assert examples[0] == Example("some text 0")
    assert examples[8:] == [Example("Hello", "Hi"), Example((user,), "Hi"), Example((user,))]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    plain = write_rows(tmp_path / "plain.jsonl", pairs())
    text = plain.read_text().replace("\n", "\r\n")
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert list(each_pair(tmp_path / "windows.jsonl")) == list(each_pair(plain))


def test_several_bad_rows_are_told_at_once(tmp_path):
    rows = pairs()
    rows[2]["positive"], rows[5]["negative"] = "", 3
    path = write_rows(tmp_path / "bad.jsonl", rows)
    with pytest.raises(DataError) as error:
        list(each_pair(path))
    assert error.value.lines == (f"{path}:3: 'positive' is empty", f"{path}:6: 'negative' must be text, it is a number")


def test_splits_by_hash():
    shares = (0.5, 0.2, 0.3)
    found = {k: split_of(f"prompt {k}", shares, 0) for k in range(4000)}
    counts = Counter(found.values())
    assert [round(counts[s] / 4000, 1) for s in ("fit", "select", "report")] == [0.5, 0.2, 0.3]
    assert any(split_of(f"prompt {k}", shares, 1) != found[k] for k in range(20))


def test_a_prompt_is_in_one_split_and_adding_rows_moves_none(folder):
    rows = pairs()
    rows += [{**row, "positive": row["positive"] + " Truly."} for row in rows[:6]]  # the same prompts once more
    write_rows(folder / "pairs.jsonl", rows)
    before = examples_of(load_recipe(folder / "recipe.yaml").data)
    by_prompt = {example.prompt: {e.split for e in before if e.prompt == example.prompt} for example in before}
    assert all(len(splits) == 1 for splits in by_prompt.values())
    extra = [{"prompt": "New?", "positive": "Yes, new", "negative": "No, new"}]
    write_rows(folder / "pairs.jsonl", extra + rows)
    after = examples_of(load_recipe(folder / "recipe.yaml").data)
    assert {e.prompt: e.split for e in before}.items() <= {e.prompt: e.split for e in after}.items()


def test_examples_of_pairs_stand_together(folder):
    examples = examples_of(load_recipe(folder / "recipe.yaml").data)
    assert [e.label for e in examples] == [1, -1] * 24
    assert [e.pair for e in examples] == [k for k in range(24) for _ in (1, -1)]


def test_data_that_changed_under_a_recipe_is_refused(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    write_rows(folder / "pairs.jsonl", pairs(25))
    with pytest.raises(DataError, match="changed since the recipe was read"):
        examples_of(recipe.data)


def test_methods_have_a_meaning_and_a_source():
    fitters = [row for row in methods() if row["kind"] == "fitter"]
    assert {"mean_difference", "pca", "logistic_probe", "whitened_difference"} <= {row["name"] for row in fitters}
    assert all(row["meaning"] and row["source"] for row in fitters)
