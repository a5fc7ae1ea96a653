"""The pages of a catalog's site: one with every name, and one for each name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.store import Artifact
from trimtab.store.catalog.aliases import AliasMove
from trimtab.store.catalog.lineage import LineageNode
from trimtab.store.catalog.remarks import Profile
from trimtab.tasks.reporting.charts import lineage as graph
from trimtab.tasks.reporting.charts.versions import Point, over_versions
from trimtab.tasks.reporting.document import Section, contents, document
from trimtab.tasks.reporting.drawing.html import NO_ATTRIBUTES, Child, Html, el, note, p, sortable, table
from trimtab.tasks.reporting.drawing.numbers import number
from trimtab.tasks.reporting.drawing.svg import WIDE, half_figure

DRAWN = {"effect": "effect", "kl_held_out": "KL(steered ‖ base)", "damage": "damage"}
PLAN = ("name", "what it is", "newest", "aliases", "effect", "KL", "beats placebos", "tags")
OTHER = ("name", "kind", "newest", "aliases", "tags", "what it is")


@dataclass(frozen=True)
class NamePage:
    """Everything that the page of a name shows. versions: oldest first, profiles beside them. moves: of its aliases.
    lineage: of the newest version. children: version -> what was made from it. reports: version -> file names of its
    pages."""

    name: str
    versions: Sequence[Artifact]
    profiles: Sequence[Profile]
    aliases: Mapping[str, int]
    moves: Sequence[AliasMove]
    lineage: LineageNode
    children: Mapping[int, Sequence[str]]
    reports: Mapping[int, Sequence[str]]

    @property
    def newest(self) -> Artifact:
        return self.versions[-1]

    @property
    def profile(self) -> Profile:
        """What is said of the newest version."""
        return self.profiles[-1]

    def naming(self, version: int) -> str:
        """The aliases that name a version."""
        return ", ".join(sorted(alias for alias, named in self.aliases.items() if named == version))


def index_page(pages: Sequence[NamePage], title: str) -> str:
    """Every name with its newest version."""
    count = sum(len(page.versions) for page in pages)
    top = el("header", {}, el("h1", {}, title), p(f"{len(pages)} names, {count} versions. Versions never change."))
    plans = [_plan_row(page) for page in pages if page.newest.kind == "plan"]
    others = [_other_row(page) for page in pages if page.newest.kind != "plan"]
    parts = [
        Section("plans", "Plans", "Plans", sortable("Plans, by their newest version; nats per token", PLAN, plans)),
        Section(
            "others", "All others", "All others", sortable("What they were made from, and the rest", OTHER, others)
        ),
    ]
    sections = [part for part, rows in zip(parts, (plans, others), strict=True) if rows]
    return document(title, [top, contents(sections)], {"names": [page.name for page in pages]})


def name_page(page: NamePage) -> str:
    """One name: what it is, its versions over time, where it came from, what was made from it."""
    parts = [_over_time(page), _versions(page), _lineage(page), _moves(page), _notes(page)]
    top = el("header", {}, p(el("a", {"href": "../index.html"}, "all names")), el("h1", {}, page.name), _said(page))
    numbers = {"versions": [_record(artifact) for artifact in page.versions], "moves": list(map(asdict, page.moves))}
    return document(page.name, [top, contents([part for part in parts if part is not None])], numbers)


def _said(page: NamePage) -> list[Html]:
    profile = page.profile
    lines = [f"{page.newest.kind}, newest {page.newest.ref}", profile.description]
    lines += [f"{label}: {text}" for label, text in (("For", profile.use), ("Licence", profile.licence)) if text]
    lines += [f"Tags: {', '.join(profile.tags)}"] if profile.tags else []
    warning = profile.deprecated
    deprecated = [p(el("span.badge.bad", {}, "deprecated"), f" {warning.text}")] if warning else []
    return [*(p(line) for line in lines if line), *deprecated]


def _plan_row(page: NamePage) -> list[tuple[Child, object]]:
    metrics = _metrics(page.newest)
    numbers = [(_shown(metrics.get(key)), _mean(metrics.get(key))) for key in ("effect", "kl_held_out")]
    beats = _shown(metrics.get("beats_random"))
    return [_link(page), _words(_what(page)), _newest(page), _aliases(page), *numbers, (beats, beats), _tags(page)]


def _other_row(page: NamePage) -> list[tuple[Child, object]]:
    return [_link(page), _words(page.newest.kind), _newest(page), _aliases(page), _tags(page), _words(_what(page))]


def _link(page: NamePage) -> tuple[Child, object]:
    return el("a", {"href": f"names/{page.name}.html"}, page.name), page.name


def _what(page: NamePage) -> str:
    deprecated = "deprecated" if page.profile.deprecated else ""
    return "; ".join(filter(None, [page.profile.description, deprecated]))


def _newest(page: NamePage) -> tuple[Child, object]:
    return f"@{page.newest.version}, {page.newest.created[:10]}", page.newest.created


def _aliases(page: NamePage) -> tuple[Child, object]:
    return _words(", ".join(f"{alias} @{version}" for alias, version in sorted(page.aliases.items())))


def _tags(page: NamePage) -> tuple[Child, object]:
    return _words(", ".join(page.profile.tags))


def _words(text: str) -> tuple[Child, object]:
    return text, text


def _over_time(page: NamePage) -> Section | None:
    """Effect and price of every version. None where versions have neither."""
    series = [(label, _points(page, key)) for key, label in DRAWN.items()]
    charts = [half_figure(label, over_versions(points, label)) for label, points in series if points]
    if not charts:
        return None
    lead = note("Each mark is a version, whiskers are its interval, a diamond is a version that an alias names.")
    return Section("time", "Over time", "Versions over time", [lead, el("div.halves", NO_ATTRIBUTES, charts)])


def _points(page: NamePage, key: str) -> list[Point]:
    values = [(one.version, _metrics(one).get(key)) for one in page.versions]
    named = set(page.aliases.values())
    return [(version, value, version in named) for version, value in values if isinstance(value, Mapping | float | int)]


def _versions(page: NamePage) -> Section:
    rows = [_version_row(page, number) for number in reversed(range(len(page.versions)))]
    head = ("version", "aliases", "published", "effect", "KL", "damage", "report", "used by", "digest")
    return Section("versions", "Versions", "Every version", table("Versions, newest first", head, rows))


def _version_row(page: NamePage, place: int) -> list[Child]:
    artifact, metrics = page.versions[place], _metrics(page.versions[place])
    deprecated = " (deprecated)" if page.profiles[place].deprecated else ""
    files = page.reports.get(artifact.version, ())
    pages = [el("a", {"href": f"../reports/{file}"}, _page_title(file)) for file in files]
    return [
        f"@{artifact.version}{deprecated}",
        page.naming(artifact.version),
        artifact.created[:10],
        *(_shown(metrics.get(key)) for key in DRAWN),
        [[link, " "] for link in pages],
        [[_name_link(ref), " "] for ref in page.children.get(artifact.version, ())],
        artifact.digest[:8],
    ]


def _name_link(ref: str) -> Html:
    return el("a", {"href": f"{ref.partition('@')[0]}.html"}, ref)


def _page_title(file: str) -> str:
    return "features browser" if file.endswith(".features.html") else "report"


def _lineage(page: NamePage) -> Section:
    figure = el("figure", {}, graph.draw(page.lineage, WIDE))
    title = f"What {page.newest.ref} was made from"
    return Section("lineage", "Lineage", title, [note("Hover over a box for its kind, digest and place."), figure])


def _moves(page: NamePage) -> Section | None:
    if not page.moves:
        return None
    rows = [
        [move.alias, _version(move.before), _version(move.after), move.when[:16].replace("T", " "), move.who, move.note]
        for move in reversed(page.moves)
    ]
    head = ("alias", "from", "to", "when", "who", "why")
    return Section("aliases", "Aliases", "Where its aliases were moved", table("Moves, newest first", head, rows))


def _notes(page: NamePage) -> Section | None:
    notes = dict.fromkeys(remark for profile in page.profiles for remark in profile.notes)
    if not notes:
        return None
    rows = [[_version(remark.version) or "all", remark.text, remark.who, remark.when[:10]] for remark in notes]
    return Section("notes", "Notes", "What people noted", table("Notes", ("version", "note", "who", "when"), rows))


def _version(version: int | None) -> str:
    return "" if version is None else f"@{version}"


def _record(artifact: Artifact) -> dict[str, Any]:
    return {"ref": artifact.ref, "digest": artifact.digest, "created": artifact.created, "metrics": artifact.metrics}


def _metrics(artifact: Artifact) -> Mapping[str, Any]:
    return artifact.metrics if isinstance(artifact.metrics, dict) else {}


def _mean(value: Any) -> object:
    return value.get("mean", "") if isinstance(value, Mapping) else "" if value is None else value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"{number(value.get('mean'))} [{number(value.get('low'))}, {number(value.get('high'))}]"
    return number(value) if isinstance(value, int | float) else str(value)
