"""The feature browser: a searchable, sortable list with one feature in full beside it. Rows are made by the script
from the data inside the page, only those in sight, so that a thousand features scroll as fast as ten."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.tasks.reporting.document import asset, head
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el

DIGITS = 4


def features_page(
    about: Mapping[str, Any], readings: Sequence[Mapping[str, Any]], tree: Sequence[Any], curve: Sequence[Any]
) -> str:
    """The whole document. about, readings, tree, curve: plain JSON, see `tasks/reporting/features_report.py`."""
    data = {"about": about, "features": readings, "tree": tree, "curve": curve}
    title = f"{about['ref']}: {len(readings)} features at {about['site']}"
    body = el(
        "body",
        NO_ATTRIBUTES,
        el("header", {"id": "head"}, el("h1", {}, title), el("p.facts", {"id": "facts"})),
        _tools(),
        el("main", {}, el("div", {"id": "list", "tabindex": "0"}), el("article", {"id": "one"})),
        el("noscript", {}, "The list is drawn by a script inside this file; allow scripts to see it."),
        el("script", {"type": "application/json", "id": "data"}, _embedded(data)),
        el("script", NO_ATTRIBUTES, Html(asset("features.js"))),
    )
    return "<!doctype html>\n" + el("html", {"lang": "en"}, head(title, "features"), body) + "\n"


def _tools() -> Html:
    options = [
        el("option", {"value": value}, text)
        for value, text in (
            ("size", "largest first"),
            ("firing", "fires most often"),
            ("rare", "fires least often"),
            ("peak", "strongest peak"),
            ("auroc", "best concept detectors"),
            ("label", "label, A to Z"),
            ("number", "number"),
        )
    ]
    placeholder = "search labels, tokens, neurons (n1234), concepts"
    return el(
        "div",
        {"id": "tools"},
        el("input", {"id": "search", "type": "search", "placeholder": placeholder, "aria-label": "Search"}),
        el("select", {"id": "sort", "aria-label": "Sort"}, options),
        el("span", {"id": "count"}),
        el("button", {"id": "tree", "type": "button"}, "Hierarchy"),
        el("button", {"id": "overview", "type": "button"}, "Overview"),
    )


def _embedded(data: Mapping[str, Any]) -> Html:
    # inside a script element only `<` can end it, and JSON may spell it as an escape
    text = json.dumps(_rounded(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Html(text.replace("<", "\\u003c"))


def _rounded(value: Any) -> Any:
    """Four digits are what the page shows; all of them would double its size."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
