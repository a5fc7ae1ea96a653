"""Remarks: what people say of names and versions after they were published. They lie outside the sealed content, so
that they can change while a version never does; each stays recorded, with who said it and when."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from trimtab.store.digests import JSON
from trimtab.store.errors import Corrupt, Invalid, nearest

DESCRIPTION, USE, LICENCE, NOTE, TAG, UNTAG, DEPRECATED = (
    "description",
    "use",
    "licence",
    "note",
    "tag",
    "untag",
    "deprecated",
)
FIELDS = (DESCRIPTION, USE, LICENCE, NOTE, TAG, UNTAG, DEPRECATED)
MAX_TEXT, MAX_TAG = 10_000, 80


@dataclass(frozen=True)
class Remark:
    """field: one of FIELDS. text: what is said; an empty description, use, licence or deprecation takes the former one
    back. version: of which it is said; None: of the whole name, later versions too. who: user@host. when: ISO time,
    UTC."""

    field: str
    text: str
    version: int | None
    who: str
    when: str

    def as_json(self) -> dict[str, JSON]:
        """The fields as they are recorded."""
        return {"field": self.field, "text": self.text, "version": self.version, "who": self.who, "when": self.when}

    @staticmethod
    def from_json(value: JSON) -> "Remark":
        """The inverse of `as_json`. Raises Corrupt for what nobody can have remarked."""
        try:
            remark = Remark(value["field"], value["text"], value["version"], value["who"], value["when"])
            check_remark(remark.field, remark.text)
            datetime.fromisoformat(remark.when)
        except (KeyError, TypeError, ValueError, AttributeError, Invalid) as error:
            raise Corrupt(f"it is no remark ({type(error).__name__}: {error})") from None
        if isinstance(remark.version, bool) or not isinstance(remark.version, int | None):
            raise Corrupt("it is said of what is no version")
        return remark


def check_remark(field: str, text: str) -> None:
    """Raises Invalid when there is no such field, or the text is too long for it, or empty where it says nothing."""
    if field not in FIELDS:
        raise Invalid(f"there is no remark {field!r}: {nearest(field, FIELDS)}")
    limit = MAX_TAG if field in (TAG, UNTAG) else MAX_TEXT
    if len(text) > limit:
        raise Invalid(f"this {field} has {len(text)} characters, at most {limit} are recorded.")
    if field in (NOTE, TAG, UNTAG) and not text.strip():
        raise Invalid(f"this {field} is empty; say something.")
    if field in (TAG, UNTAG) and ("," in text or text != text.strip()):
        raise Invalid(f"{text!r} cannot be a tag: no comma in it, no blank around it.")


@dataclass(frozen=True)
class Profile:
    """What is said of one version now, remarks about its whole name included. description, use, licence: those of the
    version, else of the name ("": none). deprecated: why it should not be used any more ("": nothing against it)."""

    description: str = ""
    use: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()
    notes: tuple[Remark, ...] = ()
    deprecated: Remark | None = None


@dataclass(frozen=True)
class Remarks:
    """Every remark about a name and its versions, oldest first; None in the place of one that cannot be read."""

    records: Sequence[Remark | None] = ()

    @property
    def sound(self) -> list[Remark]:
        """The remarks that can be read."""
        return [remark for remark in self.records if remark is not None]

    def about(self, version: int) -> Profile:
        """What is said of a version."""
        here = [remark for remark in self.sound if remark.version in (None, version)]
        texts = {field: _last_text(here, field) for field in (DESCRIPTION, USE, LICENCE)}
        notes = tuple(remark for remark in here if remark.field == NOTE)
        return Profile(**texts, tags=tuple(_tags(here)), notes=notes, deprecated=_deprecation(here))


def _last_text(remarks: Sequence[Remark], field: str) -> str:
    """The last one about the version itself, else about the name."""
    ranked = sorted((r for r in remarks if r.field == field), key=lambda remark: remark.version is not None)
    own = [remark.text for remark in ranked]
    return own[-1] if own else ""


def _tags(remarks: Sequence[Remark]) -> list[str]:
    present: dict[str, bool] = {r.text: r.field == TAG for r in remarks if r.field in (TAG, UNTAG)}
    return sorted(tag for tag, there in present.items() if there)


def _deprecation(remarks: Sequence[Remark]) -> Remark | None:
    """The last word on the version, else on its name; a word on either that was taken back does not count."""
    last: dict[int | None, Remark] = {r.version: r for r in remarks if r.field == DEPRECATED}
    standing = [remark for remark in last.values() if remark.text]
    return next((remark for remark in standing if remark.version is not None), standing[0] if standing else None)


class DeprecatedVersion(UserWarning):
    """A version that somebody deprecated is used."""


def deprecation(ref: str, about: Profile) -> str:
    """`cheerful@3 is deprecated: ... (ann@host, 2026-11-25)`; empty when it is not."""
    remark = about.deprecated
    return "" if remark is None else f"{ref} is deprecated: {remark.text} ({remark.who}, {remark.when[:10]})"


def read_remarks(records: Sequence[Mapping[str, JSON] | None]) -> Remarks:
    """From recorded attributes."""
    return Remarks(list(_each(records)))


def _each(records: Sequence[Mapping[str, JSON] | None]) -> Iterator[Remark | None]:
    for record in records:
        try:
            yield Remark.from_json(record)
        except Corrupt:
            yield None
