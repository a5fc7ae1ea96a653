"""Fit: rows of a capture become a plan with one intervention at every captured site of the point asked for."""

import warnings
from collections.abc import Sequence

import torch

from trimtab.steering.fitters import FITTERS
from trimtab.steering.fitters._leading import Lead, MassiveCoordinate, leads_of, warning_of
from trimtab.steering.fitters.base import Fitter, Method, ModelFitter
from trimtab.steering.model.anatomy import Fingerprint
from trimtab.steering.model.site import Site
from trimtab.steering.model.span import Span
from trimtab.steering.plans.intervention import Intervention
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.running.contrast import Contrast, Pair
from trimtab.store import ActivationStore
from trimtab.tasks.home import Home
from trimtab.tasks.plans.learning import learned, sites_of
from trimtab.tasks.progress import report
from trimtab.tasks.recipes.behaviour import BehaviourRecipe
from trimtab.tasks.recipes.methods import make_method
from trimtab.tasks.references import CaptureReference, Reference
from trimtab.tasks.step import Product, Step, as_task

STAGE = "fitting"


def fit_recipe(recipe: BehaviourRecipe, home: Home, capture: CaptureReference, fitter: str) -> Reference:
    """Fit one method on the fit split and publish `<name>.<fitter>`: candidate plans, of one site each or of many."""
    method = _method(recipe, fitter)
    step = Step(f"{recipe.name}.{fitter}", "candidates", fit_key(recipe, fitter), recipe.to_json(), [capture.ref])
    return step.find_or_publish(home, lambda: _candidates(recipe, ActivationStore.open(capture.url), method))


fit_task = as_task("fit", fit_recipe)


def fit_key(recipe: BehaviourRecipe, fitter: str) -> str:
    """What one method's candidates are found by. Methods that learn through the model fit at the budget."""
    key = f"{recipe.stage('fit')}/{fitter}"
    return f"{key}/kl={recipe.budget.kl}" if issubclass(FITTERS[fitter], ModelFitter) else key


def _method(recipe: BehaviourRecipe, fitter: str) -> Method:
    method: Method = make_method(FITTERS, fitter, recipe.fit.fields_of(fitter))
    return method


def _candidates(recipe: BehaviourRecipe, store: ActivationStore, method: Method) -> Product:
    if isinstance(method, ModelFitter):
        return learned(recipe, store, method)
    assert isinstance(method, Fitter)  # there are two contracts
    steps, leads = _fitted(method, store, recipe)
    plan = SteeringPlan(steps, Fingerprint(**store.capture.fields["model"])).spanning(Span.parse(recipe.fit.span))
    packed = plan.pack()
    if not leads:
        return Product(packed.arrays, packed.header)
    warning = warning_of(FITTERS.name_of(type(method)), leads)
    warnings.warn(warning, MassiveCoordinate, stacklevel=2)
    return Product(packed.arrays, {**packed.header, "warnings": [warning]})


def _fitted(
    fitter: Fitter, store: ActivationStore, recipe: BehaviourRecipe
) -> tuple[tuple[Intervention, ...], list[Lead]]:
    """One intervention per site, and where a massive coordinate leads; the rows of one site are in memory at a time."""
    sites, interventions, leads = sites_of(store, recipe.fit.point), list[Intervention](), list[Lead]()
    for number, site in enumerate(sites):
        report(STAGE, number, len(sites))
        contrast = contrast_of(store, recipe, "fit", [site])
        at_site = fitter.interventions(contrast)
        interventions += at_site
        leads += leads_of(at_site, contrast)
    report(STAGE, len(sites), len(sites))
    return tuple(interventions), leads


def contrast_of(
    store: ActivationStore, recipe: BehaviourRecipe, split: str, sites: Sequence[Site] | None = None
) -> Contrast:
    """Positive and negative rows of one split at the recipe's point, pooled as it says; special tokens left out."""
    sites = sites_of(store, recipe.fit.point) if sites is None else sites
    pool = None if recipe.fit.pool == "tokens" else recipe.fit.pool
    pairs, paired = {}, False
    for site in sites:
        rows = store.contrast([str(site)], pool=pool, split=split)
        positive, negative = (torch.from_numpy(x.reshape(len(x), -1)).float() for x in rows[str(site)])
        pairs[site], paired = Pair(positive, negative), rows.paired
    return Contrast(pairs, paired)
