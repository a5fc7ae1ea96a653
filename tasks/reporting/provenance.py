"""Where the verdict came from: what was asked, of which model, with which versions, and how to do it again.

Keys that are understood, all optional: ref, digest, created, command, model (fingerprint: text or mapping),
capture (digest), parents (references), lineage (lines), prompts (digest by name), versions (by library),
seconds (by stage), recipe (YAML text or mapping), lexicon (words to highlight). Any other is listed as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.tasks.reporting.document import Section
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, code, details, el, note, table
from trimtab.tasks.reporting.drawing.numbers import number, percent

NAMED = ("ref", "digest", "created", "model", "capture")
SHOWN_ELSEWHERE = (
    *NAMED,
    "command",
    "parents",
    "lineage",
    "prompts",
    "versions",
    "seconds",
    "recipe",
    "lexicon",
)


def provenance_section(provenance: Mapping[str, Any], splits: Mapping[str, int]) -> Section:
    """Everything that is known, the recipe and the lineage folded."""
    rows = [*_named(provenance), *_others(provenance)]
    if splits:
        rows.append(("pairs by split", ", ".join(f"{name} {count:,}" for name, count in splits.items())))
    blocks = [
        table("What this is", ("field", "value"), rows) if rows else note("No provenance was recorded."),
        reproduce(provenance.get("command")),
        _folded("Recipe", _text(provenance.get("recipe"))),
        _folded("Lineage", _lines(provenance)),
        _mapping("Prompts", "digest (sha256 of token ids)", provenance.get("prompts")),
        _mapping("Library versions", "version", provenance.get("versions")),
        _seconds(provenance.get("seconds")),
    ]
    return Section("provenance", "Provenance", "Where this came from, and how to do it again", blocks)


def words(value: Any) -> Sequence[str]:
    """A list of words from a list, or from nothing."""
    return [] if value is None or isinstance(value, str) else [str(word) for word in value]


def _named(provenance: Mapping[str, Any]) -> list[Sequence[Child]]:
    names = {"ref": "version", "capture": "capture (digest)"}
    return [(names.get(key, key), code(_inline(provenance[key]))) for key in NAMED if provenance.get(key)]


def _others(provenance: Mapping[str, Any]) -> list[Sequence[Child]]:
    return [(str(key), code(_inline(value))) for key, value in provenance.items() if key not in SHOWN_ELSEWHERE]


def reproduce(command: str | None) -> Html:
    """The command to copy."""
    if not command:
        return note("No command was recorded to reproduce this.")
    button = el("button.copy", {"type": "button", "data-copy": "command", "hidden": ""}, "Copy")
    shown = el("pre", {"id": "command"}, str(command))
    return el("div.command", {}, el("h3", NO_ATTRIBUTES, "To reproduce"), button, shown)


def _folded(name: str, content: str) -> Html:
    return details(name, el("pre", NO_ATTRIBUTES, content)) if content else note(f"{name}: not recorded.")


def _lines(provenance: Mapping[str, Any]) -> str:
    lineage, parents = provenance.get("lineage"), provenance.get("parents")
    lines = [f"parent {parent}" for parent in words(parents)]
    return "\n".join([*lines, *([lineage] if isinstance(lineage, str) else words(lineage))])


def _mapping(name: str, value_name: str, mapping: Any) -> Html:
    if not mapping:
        return note(f"{name}: not recorded.")
    pairs = mapping.items() if isinstance(mapping, Mapping) else enumerate(words(mapping))
    rows = [(str(key), code(_inline(value))) for key, value in pairs]
    return details(name, table(name, ("name", value_name), rows))


def _seconds(seconds: Any) -> Html:
    if not isinstance(seconds, Mapping) or not seconds:
        return note("Time per stage: not recorded.")
    total = sum(float(value) for value in seconds.values()) or 1.0
    rows = [
        (str(k), f"{number(float(v))} s", _bar(float(v) / total), percent(float(v) / total)) for k, v in seconds.items()
    ]
    head = ("stage", "time", "", "share")
    return details(f"Time per stage: {number(total)} s in all", table("Time per stage", head, rows))


def _bar(share: float) -> Html:
    return el("div.meter", {"role": "presentation"}, el("div", {"style": f"width:{share * 100:.1f}%"}))


def _inline(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _text(recipe: Any) -> str:
    if recipe is None or isinstance(recipe, str):
        return recipe or ""
    return json.dumps(recipe, ensure_ascii=False, indent=2, default=str)
