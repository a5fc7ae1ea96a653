"""The data of a run are parsed once and tokenised once, however many stages need them; many data are not kept."""

from collections import Counter

from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.data import prompts, rows
from trimtab.tasks.data.examples import examples_of
from trimtab.tasks.data.remembered import Remembered
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.validate import judged_texts
from trimtab.tasks.recipes.kinds import load_recipe


def test_a_run_parses_and_tokenises_its_data_once(tiny_recipe, tmp_path, monkeypatch):
    files, tokenised = Counter(), Counter()
    read, tokenize = rows.read_jsonl, prompts.tokenize

    def counted_read(path, name=None):
        files[path.name] += 1
        return read(path, name)

    def counted_tokenize(tokenizer, prompt, completion=None, form=None):
        tokenised[str(prompt), completion] += 1
        return tokenize(tokenizer, prompt, completion, form)

    monkeypatch.setattr(rows, "read_jsonl", counted_read)
    monkeypatch.setattr(prompts, "tokenize", counted_tokenize)
    recipe = load_recipe(tiny_recipe)
    capture_recipe(recipe, Home.at(tmp_path / "home"))
    texts = judged_texts(recipe, model_of(recipe.model)[1])
    assert texts.select and texts.report
    data = {(str(example.prompt), example.completion) for example in examples_of(recipe.data)}
    assert len(data) == 120 and data <= tokenised.keys()  # 60 pairs
    assert set(tokenised.values()) == {1}, "a text was tokenised twice"
    assert [count for name, count in files.items() if name == tiny_recipe.with_name(name).name and "pairs" in name] == [
        1
    ]


def test_what_is_within_the_bounds_is_produced_once_and_what_is_not_every_time():
    calls = []

    def produce(key: str, items: list[str]):
        calls.append(key)
        yield from items

    few = Remembered[str](len, largest=3, weight=10)
    for key, items in {"short": ["a", "bb"], "many": ["a"] * 4, "heavy": ["a" * 11]}.items():
        for _ in range(2):
            assert list(few.each(key, lambda key=key, items=items: produce(key, items))) == items
    assert Counter(calls) == {"short": 1, "many": 2, "heavy": 2}


def test_a_sequence_that_was_left_early_is_not_remembered_and_only_two_are():
    few = Remembered[int](lambda item: 1)
    next(few.each("left", lambda: iter([1, 2])))
    assert list(few.each("left", lambda: iter([3]))) == [3]
    for key in ("second", "third"):
        list(few.each(key, lambda: iter([4])))
    assert list(few.each("third", lambda: iter([5]))) == [4]
    assert list(few.each("left", lambda: iter([6]))) == [6]
