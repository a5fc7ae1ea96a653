"""A contrast of pairs in Python holds the numbers that a recipe collects of the same pairs."""

import pytest
import torch

from trimtab.steering import Contrast, MeanDifference, Rows
from trimtab.tasks.collecting.capture import capture_recipe
from trimtab.tasks.data.examples import each_example
from trimtab.tasks.data.prompts import form_of
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.plans.fit import contrast_of
from trimtab.tasks.recipes.kinds import load_recipe


@pytest.mark.parametrize(("span", "rows"), [("generated", None), ("all", Rows("all", "mean"))])
def test_from_pairs_is_the_recipes_capture_and_fit(tiny_recipe, tmp_path, span, rows):
    settings = ["capture.dtype=float32", f"capture.span={span}"]
    recipe, home = load_recipe(tiny_recipe, settings), Home.at(tmp_path / "home")
    collected = contrast_of(home.rows(capture_recipe(recipe, home).ref), recipe, "fit")
    texts = [example for example in each_example(recipe.data) if example.split == "fit"]
    couples = zip(texts[::2], texts[1::2], strict=True)
    pairs = [(plus.prompt, plus.completion, minus.completion) for plus, minus in couples]
    model, tokenizer = model_of(recipe.model)
    contrast = Contrast.from_pairs(model, tokenizer, pairs, recipe.fit.point, rows, form_of(recipe.data))
    assert contrast.sites.keys() == collected.sites.keys() and contrast.paired and collected.paired
    fitted, wanted = (MeanDifference().fit(one) for one in (contrast, collected))
    for got, want in zip(fitted.interventions, wanted.interventions, strict=True):
        assert got.site == want.site
        torch.testing.assert_close(got.move.vector, want.move.vector, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            contrast.sites[got.site].positive, collected.sites[got.site].positive, rtol=1e-4, atol=1e-5
        )
