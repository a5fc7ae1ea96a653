"""Other weights, other activations: whatever changed in a model folder, what was read from the old weights never passes
for the new ones."""

import os
import time

import pytest
from safetensors.numpy import load_file, save_file

from trimtab.store import ActivationStore
from trimtab.tasks.collecting.capture import capture_recipe, collection_of
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes import checkpoints
from trimtab.tasks.recipes.checkpoints import folder_digest
from trimtab.tasks.recipes.kinds import load_recipe

MIDDLE = "model.layers.1.mlp.down_proj.weight"
SMALL = 250_000


def change(recipe, times: float = -3.0) -> None:
    """One number in the middle of the middle of a checkpoint; size, and the time of writing, stay as they were."""
    file = recipe.parent / "model" / "model.safetensors"
    before, tensors = file.stat(), load_file(file)
    tensors[MIDDLE][31, 47] *= times
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_one_number_makes_another_capture_in_the_same_process(tiny_recipe, tmp_path):
    home = Home.at(tmp_path / "home")
    first = capture_recipe(load_recipe(tiny_recipe), home)
    change(tiny_recipe)
    second = capture_recipe(load_recipe(tiny_recipe), home)
    assert not second.reused and second.url != first.url
    alone = capture_recipe(load_recipe(tiny_recipe), Home.at(tmp_path / "alone"))
    assert ActivationStore.open(second.url).digest == ActivationStore.open(alone.url).digest
    assert ActivationStore.open(second.url).digest != ActivationStore.open(first.url).digest


def test_a_recipe_read_before_the_change_is_refused_at_every_step(tiny_recipe, tmp_path, monkeypatch):
    recipe, home = load_recipe(tiny_recipe), Home.at(tmp_path / "home")
    work = collection_of(recipe, home, SMALL)
    monkeypatch.setattr("trimtab.tasks.collecting.capture.collection_of", lambda *_: work)
    change(tiny_recipe)
    for step in (model_of, lambda _: capture_recipe(recipe, home)):
        with pytest.raises(RecipeError, match="another model than when the recipe was read"):
            step(recipe.model)
    assert not home.catalog.names()


def test_a_large_file_is_read_once_and_again_after_any_write(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "PIECE", 300_000)  # several pieces
    read = []
    monkeypatch.setattr(checkpoints, "_piece_digest", _counting(read, checkpoints._piece_digest))
    folder, file = tmp_path / "model", tmp_path / "model" / "weights"
    folder.mkdir()
    file.write_bytes(os.urandom(1 << 21))
    first = folder_digest(folder)
    assert len(read) == 7 and folder_digest(folder) == first and len(read) == 14, "too young to be remembered"
    monkeypatch.setattr(checkpoints, "SETTLED", -1.0)
    assert {folder_digest(folder) for _ in range(3)} == {first} and len(read) == 21
    with file.open("r+b") as open_file:
        open_file.seek(1 << 20)
        open_file.write(b"x")
    os.utime(file, (time.time() - 99, time.time() - 99))
    assert folder_digest(folder) != first


def _counting(read, digest):
    return lambda *arguments: (read.append(arguments), digest(*arguments))[1]


def test_a_folder_does_not_pass_for_a_hub_id(tiny_recipe, monkeypatch):
    (tiny_recipe.parent / "owner").mkdir()
    (tiny_recipe.parent / "model").rename(tiny_recipe.parent / "owner" / "name")
    monkeypatch.chdir(tiny_recipe.parent)
    with pytest.raises(RecipeError, match="write ./owner/name"):
        model_of(load_recipe(tiny_recipe, ["model=owner/name"]).model)
