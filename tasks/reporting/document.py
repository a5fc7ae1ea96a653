"""The document of a page: one file, no network, readable without scripts."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, el, join
from trimtab.tasks.reporting.drawing.numbers import shorten

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Section:
    """id: the anchor. name: for the list of contents. title: what the section answers."""

    id: str
    name: str
    title: str
    body: Child

    def html(self) -> Html:
        heading = el("h2", {"id": f"{self.id}-title"}, self.title)
        return el("section.part", {"id": self.id, "aria-labelledby": f"{self.id}-title"}, heading, self.body)


def document(title: str, main: Sequence[Html], numbers: Mapping[str, Any]) -> str:
    """One self-contained page. numbers: travel inside it as JSON."""
    body = el(
        "body",
        NO_ATTRIBUTES,
        el("main", {}, *main),
        el("footer", {}, "Made by trimtab. ", _save_button()),
        el("script", {"type": "application/json", "id": "verdict"}, _embedded(numbers)),
        el("script", NO_ATTRIBUTES, Html(asset("report.js"))),
    )
    return "<!doctype html>\n" + el("html", {"lang": "en"}, head(title), body) + "\n"


def contents(parts: Sequence[Section]) -> Html:
    """Links to the sections, then the sections."""
    links = [el("a", {"href": f"#{part.id}"}, part.name) for part in parts]
    return join([el("nav", {"aria-label": "Contents"}, links), [part.html() for part in parts]])


def head(title: str, name: str = "report") -> Html:
    """The head of a page, with a policy under which the browser refuses every load, and every script but `name`.js.
    name: of its style sheet and script."""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{_sha256(asset(f'{name}.js'))}'; base-uri 'none'; form-action 'none'"
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
        el("style", NO_ATTRIBUTES, Html(asset(f"{name}.css"))),
    )


def _embedded(verdict: Mapping[str, Any]) -> Html:
    # inside a script element only `<` can end it, and JSON may spell it as an escape
    return Html(json.dumps(verdict, ensure_ascii=False).replace("<", "\\u003c"))


def _save_button() -> Html:
    return el("button.copy", {"type": "button", "data-save": "verdict", "hidden": ""}, "Save its numbers as JSON")


def asset(name: str) -> str:
    """The text of a file that pages carry inside them."""
    return (DATA / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Coloured dots with their words. entries: class of the colour, words."""
    return el("div.legend", {}, [el("span", {}, el(f"i.{style}", {}), words) for style, words in entries])
