"""Shortlist: at which sites training is worth its passes, by linear response."""

from collections.abc import Sequence

from trimtab.steering.learning.examples import Examples, margin_weights
from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.site import Site


def best_sites(anatomy: Anatomy, examples: Examples, sites: Sequence[Site], count: int) -> list[Site]:
    """The `count` sites whose gradient is forecast to gain most margin at the budget, in the order given. Gradients
    are taken on the pairs and judged on the held-out ones, where there are any."""
    if len(sites) <= count:
        return list(sites)
    fitted = examples.response(anatomy, sites, 1)
    judged, pairs = fitted, examples.pairs
    if examples.held_out:
        judged, pairs = examples.held_out_response(anatomy, sites, 1), examples.held_out
    ours, theirs = margin_weights(examples.pairs), margin_weights(pairs).tolist()

    def effect(site: Site) -> float:
        place = (site, examples.span)
        return judged.effect_at(examples.budget, theirs, [(place, ours @ fitted.slopes[place].double())])

    shortlist = set(sorted(sites, key=effect, reverse=True)[:count])
    return [site for site in sites if site in shortlist]
