"""Capture of a features recipe: its sentences' activations at the one site that is decomposed."""

from typing import Any

from prefect import task

from trimtab.steering.model.anatomy import Anatomy
from trimtab.store import ActivationStore
from trimtab.tasks.collecting.capture import (
    asked_again,
    asked_of,
    publish_capture,
    published,
    selection_of,
    specs_of,
    spool_folder,
)
from trimtab.tasks.collecting.filling import Collection, fill
from trimtab.tasks.collecting.spool import Spool
from trimtab.tasks.data.sentences import texts_of_sentences
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.references import CaptureReference


@task(name="capture sentences")
def capture_sentences_task(recipe: FeaturesRecipe, home: str) -> CaptureReference:
    """See `capture_sentences`."""
    return capture_sentences(recipe, Home.at(home))


def capture_sentences(recipe: FeaturesRecipe, home: Home) -> CaptureReference:
    """Collect and publish `<name>.capture`, or find it. Raises SteeringError (site, span), DataError, StoreError."""
    asked: Any = recipe  # capture.py needs its name, model, capture, stage and to_json, which both kinds have
    known = published(asked, home)
    if known is not None:
        return known
    work = sentences_collection(recipe, home)
    counted = fill(work, work.store.pending_regions())
    return publish_capture(asked, home, work.store.finish(), (counted.computed, work.texts.tokens))


def sentences_collection(recipe: FeaturesRecipe, home: Home) -> Collection:
    """Model loaded, sentences tokenised, store laid out (or opened, when this capture was begun before)."""
    asked: Any = recipe
    model, tokenizer = model_of(recipe.model)
    anatomy, selection = Anatomy.of(model), selection_of(asked)
    anatomy.check(recipe.site)
    texts = Spool(texts_of_sentences(recipe.data, tokenizer), selection, spool_folder(home))
    what = asked_of(asked, texts.digest, [recipe.site])
    before = home.catalog.find(recipe.stage("capture"))
    what = what if before is None else asked_again(before, what)
    specs = specs_of(anatomy, [recipe.site], asked)
    store = ActivationStore.create(home.capture(what.digest), what, texts.index, specs)
    return Collection(store, anatomy, texts, selection)
