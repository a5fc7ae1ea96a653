"""The page: one file, no network, readable without scripts."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.steering.judge.verdict import Verdict
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Html, el, join
from trimtab.tasks.reporting.drawing.numbers import shorten
from trimtab.tasks.reporting.drawing.verdict import read_verdict
from trimtab.tasks.reporting.provenance import provenance_section, words
from trimtab.tasks.reporting.sections import (
    Section,
    ablated,
    answered,
    billed,
    contended,
    curved,
    dosed,
    generated,
    searched,
    spread,
)
from trimtab.tasks.reporting.summary import headline

DATA = Path(__file__).parent / "data"


def page(verdict: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """The whole document. The verdict travels inside it as JSON: its numbers can be taken out again."""
    read = read_verdict(verdict)
    parts = sections(read, provenance)
    reference = provenance.get("ref")
    top = headline(read, None if reference is None else str(reference))
    return document(f"{read.plan}: verdict", [top, contents(parts)], verdict)


def document(title: str, main: Sequence[Html], numbers: Mapping[str, Any]) -> str:
    """One self-contained page. numbers: travel inside it as JSON."""
    body = el(
        "body",
        NO_ATTRIBUTES,
        el("main", {}, *main),
        el("footer", {}, "Made by trimtab. ", _save_button()),
        el("script", {"type": "application/json", "id": "verdict"}, _embedded(numbers)),
        el("script", NO_ATTRIBUTES, Html(_asset("report.js"))),
    )
    return "<!doctype html>\n" + el("html", {"lang": "en"}, _head(title), body) + "\n"


def sections(verdict: Verdict, provenance: Mapping[str, Any]) -> list[Section]:
    """In reading order, all of them, also those with nothing to show; answers only where questions were asked."""
    return [
        searched(verdict),
        contended(verdict),
        curved(verdict),
        spread(verdict),
        dosed(verdict),
        ablated(verdict),
        *([answered(verdict)] if verdict.answering else []),
        generated(verdict, words(provenance.get("lexicon"))),
        billed(verdict),
        provenance_section(provenance, verdict.splits),
    ]


def contents(parts: Sequence[Section]) -> Html:
    """Links to the sections, then the sections."""
    links = [el("a", {"href": f"#{part.id}"}, part.name) for part in parts]
    return join([el("nav", {"aria-label": "Contents"}, links), [part.html() for part in parts]])


def _head(title: str) -> Html:
    """With a policy under which the browser refuses every load, and every script but ours."""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{_sha256(_asset('report.js'))}'; base-uri 'none'; form-action 'none'"
    )
    return el(
        "head",
        NO_ATTRIBUTES,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        # an empty icon keeps servers from being asked for one
        el("link", {"rel": "icon", "href": "data:,"}),
        el("title", NO_ATTRIBUTES, shorten(title, 120)),
        el("style", NO_ATTRIBUTES, Html(_asset("report.css"))),
    )


def _embedded(verdict: Mapping[str, Any]) -> Html:
    # inside a script element only `<` can end it, and JSON may spell it as an escape
    return Html(json.dumps(verdict, ensure_ascii=False).replace("<", "\\u003c"))


def _save_button() -> Html:
    return el("button.copy", {"type": "button", "data-save": "verdict", "hidden": ""}, "Save its numbers as JSON")


def _asset(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
