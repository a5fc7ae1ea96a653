"""HTML by construction: every string is text, and is escaped, unless it is `Html`. Only `el` makes `Html`.

That is why a `<script>` in a prompt, a generation or a recipe cannot reach the page as markup.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

VOID = frozenset({"br", "meta", "link", "hr", "input"})


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


Child = str | Iterable["Child"] | None
NO_ATTRIBUTES: Mapping[str, object] = {}


def el(name: str, attributes: Mapping[str, object] = NO_ATTRIBUTES, *children: Child) -> Html:
    """One element. name: `tag` or `tag.class.class`. Attributes that are None are left out."""
    tag, *classes = name.split(".")
    attributes = {"class": " ".join(classes), **attributes} if classes else attributes
    pairs = (f' {key}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    opening = f"<{tag}{''.join(pairs)}>"
    return Html(opening if tag in VOID else f"{opening}{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other; plain strings are escaped."""
    return Html("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    return escape(child, quote=False) if isinstance(child, str) else join(child)


def p(*children: Child) -> Html:
    """A paragraph."""
    return el("p", NO_ATTRIBUTES, *children)


def note(*children: Child) -> Html:
    """A quiet paragraph: how to read what follows, or that something was not measured."""
    return el("p.note", NO_ATTRIBUTES, *children)


def code(text: str) -> Html:
    """Inline code."""
    return el("code", NO_ATTRIBUTES, text)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Child]]) -> Html:
    """A table that scrolls sideways on a phone; the first cell of a row is its header."""
    header = el("tr", {}, [el("th", {"scope": "col"}, cell) for cell in head])
    lines = [el("tr", {}, el("th", {"scope": "row"}, row[0]), [el("td", {}, c) for c in row[1:]]) for row in rows]
    body = el("table", {}, el("caption", {}, caption), el("thead", {}, header), el("tbody", {}, lines))
    return el("div.scroll", {"tabindex": "0", "role": "region", "aria-label": caption}, body)


def sortable(caption: str, head: Sequence[str], rows: Iterable[Sequence[tuple[Child, object]]]) -> Html:
    """A table whose headers sort it and whose box filters it, where scripts run; in the order given where none do.
    rows: of cells, each with what is shown and what it is sorted by."""
    header = el("tr", {}, [el("th", {"scope": "col"}, cell) for cell in head])
    lines = [el("tr", {}, [el("td", {"data-value": value}, shown) for shown, value in row]) for row in rows]
    body = el("table.sortable", {}, el("caption", {}, caption), el("thead", {}, header), el("tbody", {}, lines))
    box = el(
        "input.filter", {"type": "search", "placeholder": "filter rows", "aria-label": "Filter rows", "hidden": ""}
    )
    return el("div.scroll", {"tabindex": "0", "role": "region", "aria-label": caption}, box, body)


def details(summary: str, *children: Child) -> Html:
    """Folded away until asked for; unfolded in print."""
    return el("details", {}, el("summary", {}, summary), *children)
