"""Shelf: one file per method. `FITTERS["mean_difference"]` imports `fitters/mean_difference.py` and takes the one
class it defines. Listing names imports nothing; the name is the same word in recipes, artifacts and the file system.
"""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from trimtab.steering.errors import UnknownName

T = TypeVar("T")


class Shelf(Generic[T]):
    """The modules of one folder, each defining exactly one concrete subclass of `base`.

    what: the word for error messages. package: dotted name of the folder. folder: where it lies.
    """

    def __init__(self, what: str, base: type[T], package: str, folder: Path):
        self._what, self._base, self._package, self._folder = what, base, package, folder

    def __iter__(self) -> Iterator[str]:
        names = (path.stem for path in self._folder.glob("*.py"))
        return iter(sorted(name for name in names if not name.startswith("_") and name != "base"))

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __getitem__(self, name: str) -> type[T]:
        """Raises UnknownName with the nearest right one; a broken file raises its own error."""
        if name not in self:
            raise UnknownName(self._what, name, self)
        module = importlib.import_module(f"{self._package}.{name}")
        own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        concrete = [c for c in own if issubclass(c, self._base) and not inspect.isabstract(c)]
        if len(concrete) != 1:
            raise TypeError(f"{module.__file__} must define one {self._base.__name__}, it defines {len(concrete)}")
        return concrete[0]

    def name_of(self, cls: type) -> str:
        """The name under which a class stands here: the file that defines it."""
        name = cls.__module__.rpartition(".")[2]
        if self[name] is not cls:
            raise UnknownName(self._what, cls.__name__, self)
        return name
