"""The table of a study: one row per cell, from its verdict, with what holds over all rows together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.steering.ablation.multiple import holm
from trimtab.steering.fitters import FITTERS, ModelFitter
from trimtab.steering.judge.verdict import NULLS
from trimtab.store import Artifact
from trimtab.tasks.home import Home
from trimtab.tasks.recipes.study import StudyRecipe
from trimtab.tasks.references import Reference
from trimtab.tasks.step import Product, Step, as_task, seconds_of
from trimtab.tasks.studies.cells import Cell, CellResult

KIND = "study"
Z95 = 1.959964  # half a 95% interval, in standard errors


def table_of(study: StudyRecipe, home: Home, cells: Sequence[Cell], judged: Sequence[CellResult]) -> Reference:
    """Publish `<name>` of kind `study`: the rows, whose parents are the cells' verdicts. The same verdicts make the
    same version. Raises StoreError."""
    verdicts = [one.verdict for one in judged if one.verdict is not None]
    problems = [one.problem for one in judged]
    key = study.stage("table", [*(one.digest for one in verdicts), *problems])
    step = Step(study.name, KIND, key, study.to_json(), [one.ref for one in verdicts])

    def product() -> Product:
        rows = [_row(home, cell, one) for cell, one in zip(cells, judged, strict=True)]
        return Product({}, {"kind": KIND, "rows": with_holm(rows)}, metrics_of(rows))

    return step.find_or_publish(home, product)


table_task = as_task("study-table", table_of, model=False)


def with_holm(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with `p_holm`: that any row of the table is called better than its placebos by chance."""
    ps = [row.get("p") for row in rows]
    tested = [k for k, p in enumerate(ps) if p is not None]
    adjusted = dict(zip(tested, holm(np.array([ps[k] for k in tested])).tolist(), strict=True)) if tested else {}
    return [{**row, "p_holm": adjusted.get(k)} for k, row in enumerate(rows)]


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cells in all, and how many beat their placebos or could not be judged."""
    return {
        "cells": len(rows),
        "beat_random": sum(bool(row.get("beats_random")) for row in rows),
        "failed": sum(bool(row["problem"]) for row in rows),
    }


def row_of(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one verdict. margin: nats per token, an interval. per_nat: the same over the KL spent. beaten, of:
    random and covariance-matched placebos that the plan's margin exceeds, with an interval above 0. p: the largest of
    the one-sided p-values of these differences, taken as normal with the interval's width. over_bias: margin beyond
    that of a bias on tokens (None: there was none). damage: KL(base || steered) on neutral text."""
    plan = next(c for c in verdict["contenders"] if c["kind"] == "plan")
    nulls = [c for c in verdict["contenders"] if c["kind"] in NULLS and c["difference"] is not None]
    bias = next((c["difference"] for c in verdict["contenders"] if c["kind"] == "token_bias"), None)
    margin, spent, price = plan["effect"]["margin"], verdict["dose"]["achieved"], verdict["price"]
    return {
        "site": verdict["site"],
        "kl": spent,
        "reachable": verdict["dose"]["reachable"],
        "margin": margin,
        "per_nat": {end: margin[end] / spent for end in ("mean", "low", "high")} if spent > 0 else None,
        "behaviour_effect": plan["effect"]["behaviour"],
        "beats_random": verdict["beats_random"],
        "beaten": sum(c["reachable"] and c["difference"]["low"] > 0 for c in nulls),
        "of": len(nulls),
        "p": max((p_value(c["difference"]) for c in nulls if c["reachable"]), default=None),
        "over_bias": bias,
        "damage": price["damage"]["mean"],
        "perplexity": [price["perplexity_base"], price["perplexity_steered"]],
    }


def p_value(difference: Mapping[str, float]) -> float:
    """One-sided p-value that a difference is not above 0, from its estimate and the width of its interval."""
    error = (difference["high"] - difference["low"]) / (2 * Z95)
    if error == 0:
        return 0.0 if difference["mean"] > 0 else 1.0
    return 0.5 * math.erfc(difference["mean"] / error / math.sqrt(2))


def _row(home: Home, cell: Cell, judged: CellResult) -> dict[str, Any]:
    method = FITTERS[cell.recipe.fit.fitter]
    row = {
        "behaviour": cell.behaviour,
        "method": cell.method,
        "budget": cell.budget,
        "model": cell.recipe.model.id,
        "needs": "gradients" if issubclass(method, ModelFitter) else "activations",
        "problem": judged.problem,
    }
    if judged.verdict is None or judged.candidates is None:
        return row
    verdict: Artifact = home.catalog.get(judged.verdict.ref)
    seconds = {"fit_seconds": seconds_of(home.catalog.get(judged.candidates.ref)), "seconds": seconds_of(verdict)}
    return {**row, **row_of(verdict.header["verdict"]), **seconds, "verdict": judged.verdict.ref}
