"""Command: what to type to get a result again, for the "To reproduce" of its report.

It is the command that was given: the recipe's path as it was written, every `--set`, and the home where it is not the
default one. It stands in reports only; stage keys and digests see what was asked, never where its file lies.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from trimtab.tasks.home import DEFAULT, Home


def command(verb: str, subject: str | os.PathLike[str], home: str, options: Sequence[str] = ()) -> str:
    """`trimtab [--home HOME] VERB SUBJECT OPTIONS`, quoted for a shell. subject: a recipe file or a reference."""
    return shlex.join(["trimtab", *_home(home), verb, os.fspath(subject), *options])


def recipe_command(verb: str, recipe: str | os.PathLike[str], home: str, overrides: Sequence[str] | None = None) -> str:
    """The command that ran a recipe file with `key=value` overrides."""
    return command(verb, recipe, home, [word for setting in overrides or () for word in ("--set", setting)])


def _home(home: str) -> list[str]:
    place, here = Home.at(home).url, Path.cwd()
    if place == Home.at(DEFAULT).url:
        return []
    inside = "://" not in place and Path(place).is_relative_to(here)
    return ["--home", os.path.relpath(place, here) if inside else place]
