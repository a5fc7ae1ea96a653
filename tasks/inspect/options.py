"""What stands behind `--model trimtab/` and in `-M`: the model, what steers it, and how it is run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from trimtab.steering.engines.expression import FIELDS
from trimtab.steering.errors import nearest
from trimtab.tasks.serving.settings import Refused


@dataclass(frozen=True)
class Options:
    """model: its id or folder. plan: a steering expression, "" for none. strength, kl, govern, govern_total: as in a
    request of `trimtab serve`. nats: measure what each answer spent. home: as on the command line. revision, dtype,
    device: as in a recipe's model section."""

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
    revision: str | None = None

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
    def source(self) -> dict[str, str | None]:
        """The model section of a recipe."""
        return {"id": self.model, "revision": self.revision, "dtype": self.dtype, "device": self.device}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a published plan. task: as `inspect eval` takes it: `FILE.py`, `FILE.py@NAME`, or a name of an
    installed package. arguments: of the task. limit: samples, the first ones (None: all). tokens: of an answer at most.
    temperature, seed: of sampling."""

    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    @property
    def decoding(self) -> str:
        """How answers are drawn, in words."""
        drawn = "greedy" if self.temperature == 0 else f"temperature {self.temperature:g}, seed {self.seed}"
        return f"{drawn}, at most {self.tokens} tokens an answer"

    @property
    def words(self) -> list[str]:
        """As options of `trimtab validate`."""
        values = {"limit": self.limit, "tokens": self.tokens, "temperature": self.temperature, "seed": self.seed}
        options = [word for name, value in values.items() if value is not None for word in (f"--{name}", f"{value}")]
        arguments = [word for name, value in self.arguments.items() for word in ("-T", f"{name}={json.dumps(value)}")]
        return ["--inspect", self.task, *options, *arguments]
