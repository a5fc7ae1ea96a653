"""What collecting into a durable store costs, end to end, over bare forward passes on the same texts.

    python benchmarks/collect.py [--rounds 3] [--pairs 8] [--threads 1]

Collecting is all of `capture_recipe`: read and tokenise the recipe's data, plan the store, run the model, write
chunks, commit, publish a version of the capture. The model is loaded before the clock starts, on both sides; each
collection has a home of its own, because a second one in the same home computes nothing (the last case).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import torch
from ratio import Case, arguments, measure, setting, table

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.batching import pad_left
from trimtab.steering.model.tokens import Tokens
from trimtab.steering.running.reading import capture
from trimtab.store import ActivationStore
from trimtab.tasks.collecting.capture import capture_recipe, selection_of
from trimtab.tasks.data.prompts import texts_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.kinds import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
BATCH = 16
RESIDUAL = "capture.points=[resid_post]"
BOTH = "capture.points=[resid_post, z]"
EVERYTHING = "capture.span=all"


def main() -> None:
    args = arguments("collection against bare forward passes", 3, [("pairs", 8, "contrastive pairs collected")])
    torch.set_num_threads(args.threads)
    with temporary() as folder:
        recipes = {name: recipe_of(folder, args.pairs, settings) for name, settings in SETTINGS.items()}
        print(setting(args.threads), end="\n\n")
        tokens = sum(len(text) for text in tokens_of(recipes[ANSWERS]))
        title = f"{2 * args.pairs} contrastive chat texts of the recipe `cheerful`, {tokens} tokens"
        print(table(title, measure(cases(recipes, folder), args.rounds)), end="\n\n")
        print("\n".join(written(name, recipe, folder) for name, recipe in recipes.items()))


ANSWERS = "residual and z of every block, answers"
SETTINGS = {
    ANSWERS: [BOTH],
    "residual of every block, every token": [RESIDUAL, EVERYTHING],
    "residual of block 15, every token": [RESIDUAL, EVERYTHING, "capture.blocks=[15]"],
}


def cases(recipes: dict[str, BehaviourRecipe], folder: Path) -> list[Case]:
    """Bare passes, then each recipe: collected, and captured without a store."""
    first = next(iter(recipes.values()))
    finished = Home.at(folder / "finished")
    capture_recipe(first, finished)
    found = [
        Case(f"bare loop with logits, batches of {BATCH} in the file's order", lambda: bare(first)),
        Case("bare loop with logits, sorted by length", lambda: bare(first, in_order=False)),
    ]
    for name, recipe in recipes.items():
        found.append(Case(f"captured, nothing stored: {name}", lambda recipe=recipe: captured(recipe)))
        found.append(Case(f"collected: {name}", lambda recipe=recipe: collected(recipe, folder)))
    return [*found, Case("collected again: nothing to do", lambda: capture_recipe(first, finished))]


def tokens_of(recipe: BehaviourRecipe) -> list[Tokens]:
    """The recipe's texts; reading and tokenising them is part of what both sides do."""
    return [tokens for _, tokens in texts_of(recipe.data, model_of(recipe.model)[1])]


def bare(recipe: BehaviourRecipe, in_order: bool = True) -> None:
    """Forward passes alone, on the recipe's texts."""
    model, texts = model_of(recipe.model)[0], tokens_of(recipe)
    texts = texts if in_order else sorted(texts, key=len)
    for start in range(0, len(texts), BATCH):
        batch = pad_left([text.ids for text in texts[start : start + BATCH]], torch.device("cpu"))
        with torch.inference_mode():
            model(batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)


def captured(recipe: BehaviourRecipe) -> None:
    """The rows in memory, and no more."""
    anatomy = Anatomy.of(model_of(recipe.model)[0])
    sites = anatomy.sites(recipe.capture.points, recipe.capture.block_numbers(anatomy.n_layers))
    capture(anatomy, tokens_of(recipe), sites, selection_of(recipe))


def collected(recipe: BehaviourRecipe, folder: Path) -> None:
    """Into a home that did not exist before."""
    home = Path(tempfile.mkdtemp(dir=folder))
    capture_recipe(recipe, Home.at(home))
    shutil.rmtree(home)


def written(name: str, recipe: BehaviourRecipe, folder: Path) -> str:
    """What one collection leaves: rows, megabytes of activations, and how many tokens the model had to run."""
    reference = capture_recipe(recipe, Home.at(Path(tempfile.mkdtemp(dir=folder))))
    store, share = ActivationStore.open(reference.url), reference.computed / reference.given
    size = f"{store.n_rows} rows at {len(store.sites)} sites, {store.nbytes / 1e6:.1f} MB"
    return f"* {name}: {size}; the model ran {share:.0%} of the tokens, the rest being repeated beginnings"


def recipe_of(folder: Path, pairs: int, settings: list[str]) -> BehaviourRecipe:
    """The recipe `cheerful` on its first pairs."""
    for name in ("cheerful.yaml", "cheerful.lexicon.json"):
        shutil.copy(RECIPES / name, folder)
    lines = (RECIPES / "cheerful.jsonl").read_text().splitlines()[:pairs]
    (folder / "cheerful.jsonl").write_text("\n".join(lines) + "\n")
    return load_recipe(folder / "cheerful.yaml", settings)


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


if __name__ == "__main__":
    main()
