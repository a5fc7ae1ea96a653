"""What stands behind `--model trimtab/` and in `-M`: the model, what steers it, and how it is run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from trimtab.steering.engines.expression import FIELDS
from trimtab.steering.errors import nearest
from trimtab.tasks.serving.settings import Refused


@dataclass(frozen=True)
class Options:
    """model: its id or folder. plan: a steering expression, "" for none. strength, kl, govern, govern_total: as in a
    request of `trimtab serve`. nats: measure what each answer spent. home, dtype, device: as on the command line."""

    model: str
    plan: str = ""
    strength: float | None = None
    kl: float | None = None
    govern: float | None = None
    govern_total: float | None = None
    nats: bool = True
    home: str | None = None
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any]) -> "Options":
        """From `MODEL` or `MODEL@STEERING` and the arguments of `-M`. Raises Refused for an argument that is none."""
        names = [field.name for field in fields(cls) if field.name not in ("model", "plan")]
        for argument in arguments:
            if argument not in names:
                near = nearest(argument, names)
                hint = f"did you mean '{near}'? " if near else ""
                raise Refused(f"-M {argument}: {hint}known: {', '.join(names)}")
        model, _, plan = name.partition("@")
        return cls(model, plan.strip(), **arguments)

    @property
    def steering(self) -> dict[str, Any] | None:
        """As a request says it; None when nothing steers and nothing else is set."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["plan"] = values["plan"] or None
        return values if any(value is not None for value in values.values()) else None

    @property
    def source(self) -> dict[str, str]:
        """The model section of a recipe."""
        return {"id": self.model, "dtype": self.dtype, "device": self.device}
