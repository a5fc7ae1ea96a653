"""Export: plans in the files of other tools, and back. One file per format, each with its inverse."""

from pathlib import Path

from trimtab.steering.errors import BadFile, SteeringError
from trimtab.steering.export.base import About as About
from trimtab.steering.export.base import Format as Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.shelf import Shelf

# Files that are known, and that no plan can be read from.
FOREIGN = {
    ".spipe": "a pipeline of steerability: its recipe names classes of that library, and what they do with the frozen "
    "tensors stands in their code, not in the file; save the vector itself there (`SteeringVector.save`, .svec)",
}
FORMATS: Shelf[Format] = Shelf("format", Format, __name__, Path(__file__).parent)  # type: ignore[type-abstract]


def read_file(path: Path, name: str | None = None) -> tuple[str, SteeringPlan]:
    """(format, plan) of a file or folder. name: of the format; without it, the first that can read the file, of those
    with the file's suffix. Raises UnknownName, and BadFile with what each format says when none can."""
    if name is not None:
        word = name.replace("-", "_")
        return word, FORMATS[word]().read(path)
    if path.suffix in FOREIGN:
        raise BadFile(f"{path} is {FOREIGN[path.suffix]}")
    said = []
    for candidate in _candidates(path):
        try:
            return candidate, FORMATS[candidate]().read(path)
        except SteeringError as error:
            said.append(f"{candidate}: {error}")
    raise BadFile("; ".join(said) if said else f"{path} has no suffix of a known format; name it: {', '.join(FORMATS)}")


def _candidates(path: Path) -> list[str]:
    """Formats whose suffix the name ends with, the longest suffix first; a folder is a model repository."""
    if path.is_dir():
        return ["hf"]
    suffixes = {name: FORMATS[name].suffix for name in FORMATS}
    fitting = [name for name, suffix in suffixes.items() if suffix and path.name.endswith(suffix)]
    return sorted(fitting, key=lambda name: -len(suffixes[name]))
