"""How products are named: "name", "name@3", "name@latest", "name@prod", and "capture:<digest>"."""

import re
from dataclasses import dataclass

from trimtab.store.errors import Invalid

NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")  # one spelling of each: "01" is no number
NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,79}")
CAPTURE = "capture:"
LATEST = "latest"


@dataclass(frozen=True)
class Ref:
    """A name and which version of it is meant: a number, "latest" or an alias."""

    name: str
    selector: str = LATEST

    @staticmethod
    def parse(text: str) -> "Ref":
        """Raises Invalid when `text` is no reference."""
        name, at, selector = str(text).partition("@")
        check_name(name)
        if at and number(selector) is None and not _can_be_alias(selector) and selector != LATEST:
            raise Invalid(f"{str(text)[:200]!r}: write name, name@3, name@latest or name@alias.")
        return Ref(name, selector or LATEST)

    @property
    def number(self) -> int | None:
        """The version number, when one is named."""
        return number(self.selector)

    def __str__(self) -> str:
        return f"{self.name}@{self.selector}"


def number(text: str) -> int | None:
    """A version or move number as it is written in paths and references; None for anything else."""
    return int(text) if NUMBER.fullmatch(text) else None


def is_name(text: str) -> bool:
    """Whether `text` can name a product: "zarr.json" and names that begin with "__" mean something to Zarr."""
    return bool(NAME.fullmatch(text)) and not text.startswith("__") and text != "zarr.json"


def check_name(name: str) -> str:
    """Return `name`. Raises Invalid when it cannot name a product."""
    if not is_name(name):
        raise Invalid(
            f"{str(name)[:200]!r} cannot be a name: use 1 to 80 of a-z, 0-9, '-', '_', '.', not first '.' or '__'."
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias`. Raises Invalid for 'latest', numbers and what cannot be a name."""
    if not _can_be_alias(alias):
        raise Invalid(f"{alias!r} cannot be an alias: not 'latest', not a number, and of a-z, 0-9, '-', '_', '.'.")
    return alias


def _can_be_alias(text: str) -> bool:
    return text != LATEST and not text.isdecimal() and is_name(text)
