"""Fit features: rows to a FeatureSet with its readings, hierarchy and concepts, published as `<name>`."""

from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.steering.errors import BadSite
from trimtab.steering.features.choosing import Candidate
from trimtab.steering.features.detection import Detected, detect, sentence_scores
from trimtab.steering.features.feature_set import KIND, FeatureSet
from trimtab.steering.features.hierarchy import build_levels
from trimtab.steering.features.reading import TokenEffect, TokenTable, read_features, token_effects
from trimtab.steering.features.snmf import SNMF, Factors
from trimtab.steering.model.anatomy import Anatomy, Fingerprint
from trimtab.store import ActivationStore
from trimtab.tasks.data.sentences import sentences_of, texts_of_sentences
from trimtab.tasks.features.choose import chosen_of
from trimtab.tasks.features.rows import fit_rows, prompts_in, rows_in
from trimtab.tasks.home import Home
from trimtab.tasks.models import model_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.features import FeaturesRecipe
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.step import Product, Step, as_task

STAGE = "fitting features"
FITTED = ("fit", "select")  # concepts are reported on sentences that no feature was fitted or chosen on


def fit_features(recipe: FeaturesRecipe, home: Home, capture: CaptureReference, curve: Reference | None) -> Reference:
    """Fit at the chosen rank and sparsity, read every feature, publish. Raises BadRows, SteeringError, StoreError."""
    parents = [capture.ref, *([] if curve is None else [curve.ref])]
    step = Step(recipe.name, KIND, recipe.stage("features"), recipe.to_json(), parents)

    def features() -> Product:
        point = None if curve is None else chosen_of(home, curve)
        return _features(recipe, ActivationStore.open(capture.url), point)

    return step.find_or_publish(home, features)


fit_features_task = as_task("fit features", fit_features)


def _features(recipe: FeaturesRecipe, store: ActivationStore, point: Candidate | None) -> Product:
    settings = settings_of(recipe, point)
    factors = fit_rows(store, recipe.features.site, FITTED, settings, lambda i, n, _: report(STAGE, i, n))
    report(STAGE, settings.max_iterations, settings.max_iterations)
    features = read_set(recipe, store, factors, settings)
    concepts = concepts_of(recipe, store, features)
    extra = {"concepts": [c.to_json() for c in concepts], "chosen": None if point is None else point.to_json()}
    packed = replace(features, report={**features.report, **extra}).pack()
    return Product(packed.arrays, packed.header, metrics_of(features, concepts, point))


def settings_of(recipe: FeaturesRecipe, point: Candidate | None) -> SNMF:
    """Rank and sparsity as chosen, or as the recipe names them."""
    section = recipe.features
    if point is None:
        return section.settings(section.rank or 1, section.sparsity)
    return section.settings(point.rank, point.sparsity)


def read_set(recipe: FeaturesRecipe, store: ActivationStore, factors: Factors, settings: SNMF) -> FeatureSet:
    """Factors as a FeatureSet: read, labelled, arranged."""
    model, tokenizer = model_of(recipe.model)
    effects = effects_of(recipe, Anatomy.of(model), factors, tokenizer)
    table = token_table(recipe, store, tokenizer)
    readings = read_features(factors.features, factors.activations, table, effects)
    small = replace(settings, max_iterations=min(settings.max_iterations, 200))
    return FeatureSet(
        factors.features.cpu(),
        recipe.site,
        settings.to_json(),
        factors.report.to_json(),
        Fingerprint(**store.capture.fields["model"]),
        readings,
        build_levels(factors.features.cpu(), recipe.features.levels, small),
    )


def effects_of(
    recipe: FeaturesRecipe, anatomy: Anatomy, factors: Factors, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenEffect, ...]:
    """Promoted and suppressed tokens; none at sites that have no fixed image in the residual stream."""
    try:
        return token_effects(anatomy, recipe.site, factors.features, lambda token: str(tokenizer.decode([token])))
    except BadSite:
        return ()


def token_table(recipe: FeaturesRecipe, store: ActivationStore, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
    """Words around the rows that the features were fitted on."""
    texts, index = list(texts_of_sentences(recipe.data, tokenizer)), store.index
    prompts = prompts_in(store, FITTED)
    rows = [np.arange(index.offsets[p], index.offsets[p + 1]) for p in prompts]
    words = []
    for p in prompts:
        words.append([str(tokenizer.decode([int(i)])) for i in texts[p][1].ids])
    text = np.repeat(np.arange(len(prompts)), [len(r) for r in rows])
    return TokenTable(words, text, np.asarray(index.position)[np.concatenate(rows)])


def concepts_of(recipe: FeaturesRecipe, store: ActivationStore, features: FeatureSet) -> tuple[Detected, ...]:
    """The best feature of every concept, and how well it does on sentences that it was not chosen on."""
    if not recipe.data.concepts:
        return ()
    splits = [*FITTED, "report"]
    sentences = sentences_of(recipe.data)
    named = [s for s in sentences if s.concept]
    rows, counts = rows_in(store, recipe.features.site, splits), np.diff(store.index.offsets)
    scores = sentence_scores(rows, np.concatenate([[0], np.cumsum(counts)]), features.features)
    scores = scores[np.array([bool(s.concept) for s in sentences])]
    return detect(scores, [s.concept for s in named], np.array([s.split == "report" for s in named]))


def metrics_of(features: FeatureSet, concepts: tuple[Detected, ...], point: Candidate | None) -> dict[str, Any]:
    """The numbers people compare versions by."""
    choice = {} if point is None else {"held_out": point.held_out, "stability": point.stability}
    metrics = {
        "site": str(features.site),
        "rank": len(features),
        "sparsity": features.settings["sparsity"],
        "explained": features.report["explained"],
        **choice,
    }
    if concepts:
        metrics["concepts"] = f"{sum(c.beats_null for c in concepts)} of {len(concepts)} beat their null"
        metrics["auroc"] = float(np.mean([c.auroc for c in concepts]))
        metrics["auroc_null"] = float(np.mean([c.null for c in concepts]))
    return metrics
