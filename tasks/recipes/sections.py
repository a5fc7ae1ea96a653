"""Sections of a recipe: frozen, closed to unknown keys, each value checked where it stands. What must agree between
sections is checked in `checks.py`; the sections that name data files alone are in `tasks/data/sections.py`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.site import POINTS
from trimtab.steering.model.span import Span
from trimtab.store.captures.schema import REGION_BYTES
from trimtab.store.catalog.refs import check_alias
from trimtab.store.errors import StoreError
from trimtab.tasks.data.sections import FileField, Part, Share, expanded
from trimtab.tasks.errors import RecipeError, did_you_mean
from trimtab.tasks.recipes.checkpoints import folder_digest

EMBEDDED = "smollm2"
LANGUAGES = ("en", "fr", "de", "es", "it")  # the keys of data/function_words.json; a test keeps them equal
MAX_BLOCK = 9999

Count = Annotated[int, Field(ge=0, le=1000)]
Nats = Annotated[float, Field(ge=1e-6, le=1e6)]  # below, float32 logits cannot tell a price from nothing


def _spelled(value: str) -> str:
    try:
        return str(Span.parse(value))
    except SteeringError as error:
        raise ValueError(str(error)) from None


SpanText = Annotated[
    str, BeforeValidator(lambda v: _spelled(v) if isinstance(v, str) else v, json_schema_input_type=str)
]


class ModelSpec(Part):
    """Which model, and how it is loaded."""

    id: str = EMBEDDED
    """`smollm2` (packaged), a folder that begins with `.`, `/` or `~`, or an id on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
    """Where the model runs: `cpu`, `mps`, `cuda` or `cuda:1`."""
    _checkpoint: str | None = PrivateAttr(default=None)

    @field_validator("id")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith((".", "/", "~")):
            folder = (Path((info.context or {}).get("folder", ".")) / expanded(value)).resolve()
            if not (folder / "config.json").is_file():
                raise ValueError(f"{folder} is not a model folder: it has no config.json")
            return str(folder)
        if value == EMBEDDED or re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            return value
        raise ValueError(
            f"'{value}' is neither '{EMBEDDED}', a folder such as ./model, nor a hub id such as owner/name"
        )

    @model_validator(mode="after")
    def _revision_of_hub(self) -> "ModelSpec":
        if self.revision is not None and (self.id == EMBEDDED or Path(self.id).is_absolute()):
            raise ValueError(f"revision '{self.revision}' is for hub ids; {self.id} has none, remove it")
        return self

    @model_validator(mode="after")
    def _read_folder(self) -> "ModelSpec":
        self._checkpoint = folder_digest(Path(self.id)) if Path(self.id).is_absolute() else None
        return self

    @property
    def checkpoint(self) -> str | None:
        return self._checkpoint

    @property
    def identity(self) -> str:
        """What a digest knows the model by: its content where it is a folder, else its name."""
        return self.id if self.checkpoint is None else f"sha256:{self.checkpoint}"

    def check_unchanged(self) -> None:
        """Raises RecipeError when the folder holds something else than when the recipe was read."""
        if self.checkpoint is not None and folder_digest(Path(self.id)) != self.checkpoint:
            raise RecipeError(
                f"{self.id}: holds another model than when the recipe was read; what was made with the old weights is "
                f"not published under the new ones: run again"
            )

    @property
    def local(self) -> bool:
        """True when the model is found without the hub."""
        return self.id == EMBEDDED or Path(self.id).is_absolute()


def _blocks(value: object) -> object:
    """`all`, a number, a list, or ranges as text (`8-20`, `0,4,8-20`), to `all` or sorted numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str) and value != "all":
        value = _ranges(value)
    if value == "all":
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not `all`, a list such as [4, 8] or a range such as 8-20")
    for block in value:
        if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block <= MAX_BLOCK:
            raise ValueError(f"blocks are whole numbers from 0, not {block!r}")
    if not value or len(set(value)) != len(value):
        raise ValueError(f"blocks {value} name {'none' if not value else 'one block twice'}")
    return tuple(sorted(value))


def _ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", piece)
        if not match:
            raise ValueError(f"'{text}' is not `all`, a list such as [4, 8] or a range such as 8-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {first}-{last} is empty; write {last}-{first}")
        numbers += range(first, last + 1)
    return numbers


Blocks = Annotated[
    Literal["all"] | tuple[int, ...], BeforeValidator(_blocks, json_schema_input_type=str | int | list[int])
]


class CaptureSpec(Part):
    """Which activations are collected, and how they are stored."""

    points: tuple[str, ...] = ("resid_post", "z")
    """Points of a block, such as `resid_post`, `z` (heads) or `mlp_post` (neurons)."""
    blocks: Blocks = "all"
    """`all`, numbers from 0 such as `[4, 8]`, or ranges such as `8-20`."""
    span: SpanText = "generated"
    """Which tokens: `all`, `prompt`, `generated`, `answer`, `last`, `first:n` or `after:n`."""
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """Type in which activations are stored."""
    pool: Literal["mean"] | None = None
    """null stores a row per token, `mean` one row per text."""
    region_mb: int | None = Field(default=None, ge=1, le=65536)
    """MiB that are written and committed at once, null for 128; large models need more (docs/cluster.md)."""

    @field_validator("points")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for point in value:
            if point not in POINTS:
                raise ValueError(f"unknown point '{point}'{did_you_mean(point, POINTS)}")
        if not value or len(set(value)) != len(value):
            raise ValueError("names no point" if not value else "names one point twice")
        return tuple(sorted(value, key=POINTS.index))

    @property
    def region_bytes(self) -> int:
        """Bytes of one region."""
        return REGION_BYTES if self.region_mb is None else self.region_mb << 20

    def block_numbers(self, n_layers: int) -> list[int]:
        """The blocks of a model with this many. Raises SteeringError naming the first that it lacks."""
        if self.blocks == "all":
            return list(range(n_layers))
        missing = [block for block in self.blocks if int(block) >= n_layers]
        if missing:
            raise SteeringError(
                f"capture.blocks: the model has {n_layers} blocks, 0 to {n_layers - 1}; not {missing[0]}"
            )
        return [int(block) for block in self.blocks]


class Rival(Part):
    """A fitter to compare with, with fields of its own."""

    name: str
    """Name of a fitter; `trimtab methods` lists them."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Hyper-parameters of the fitter, by name."""


def _rival(value: object) -> object:
    """One message for what is neither a name nor a Rival, where pydantic has one for each type of the union."""
    name, fields = (value.get("name"), value.get("fields", {})) if isinstance(value, Mapping) else (value, {})
    own_keys = not isinstance(value, Mapping) or value.keys() <= {"name", "fields"}
    if isinstance(value, Rival) or (isinstance(name, str) and isinstance(fields, Mapping) and own_keys):
        return value
    raise ValueError("must be the name of a fitter or `{name: ..., fields: {...}}`")


class FitSpec(Part):
    """How vectors are fitted, and where the plan acts."""

    fitter: str = "mean_difference"
    """Name of a fitter; `trimtab methods` lists them."""
    fields: Mapping[str, Any] = Field(default_factory=dict)
    """Hyper-parameters of the fitter, by name."""
    point: str = "resid_post"
    """Point at which the best block is searched; it must be captured."""
    pool: Literal["mean", "last", "tokens"] = "mean"
    """How the tokens of one text become rows: their mean, the last one, or a row for each."""
    span: SpanText = "all"
    """Tokens on which the plan acts: `all`, `prompt`, `generated`, `answer`, `last`, `first:n` or `after:n`."""
    compare: tuple[Annotated[str | Rival, BeforeValidator(_rival)], ...] = ()
    """Other fitters, judged at the same KL: by name, with default fields, or as `{name: ..., fields: {...}}`."""

    @property
    def fitters(self) -> tuple[str, ...]:
        """The fitter, then those to compare with."""
        return (self.fitter, *(rival.name for rival in self.rivals))

    @property
    def rivals(self) -> tuple[Rival, ...]:
        """Those to compare with."""
        return tuple(Rival(name=one) if isinstance(one, str) else one for one in self.compare)

    def fields_of(self, fitter: str) -> Mapping[str, Any]:
        """The hyper-parameters of the fitter, or of one to compare with."""
        own = {rival.name: rival.fields for rival in self.rivals}
        return self.fields if fitter == self.fitter else own[fitter]


class SamplingSpec(Part):
    """How roll-outs are drawn: as you will sample from the steered model. The KL is taken before top_k and top_p, which
    make two distributions infinitely far apart."""

    temperature: float = Field(default=1.0, ge=0, le=100)
    """Temperature of sampling and of the KL; 0 samples greedily and takes the KL at 1."""
    top_k: int = Field(default=0, ge=0)
    """Sample among this many likeliest tokens; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample among the likeliest tokens that hold this probability together; 1 for all."""


class Budget(Part):
    """What the plan may cost: the strength is chosen so that it costs this."""

    kl: Nats = 0.1
    """Mean KL(steered || base) in nats per generated token."""
    tolerance: Share = 0.1
    """How near counts as met, as a share of `kl`."""
    sampling: SamplingSpec = SamplingSpec()
    """How the roll-outs are drawn on which the cost is measured."""


class Behaviour(Part):
    """How generated text is scored; a higher score means more of the behaviour."""

    metric: Literal["lexicon", "length", "language"]
    """`lexicon`: positive minus negative words. `length`: brevity. `language`: share of a language's function words."""
    lexicon: FileField | None = None
    """For `lexicon`: JSON file with lists of words under `positive` and, if wanted, `negative`."""
    language: Literal["en", "fr", "de", "es", "it"] | None = None
    """For `language`: the language that is wanted."""

    @model_validator(mode="after")
    def _fits_metric(self) -> "Behaviour":
        for name in ("lexicon", "language"):
            present = getattr(self, name) is not None
            if present and self.metric != name:
                raise ValueError(f"`{name}` is for metric {name}, not {self.metric}")
            if not present and self.metric == name:
                raise ValueError(f"metric {name} needs `{name}`")
        return self


class Placebos(Part):
    """How many placebos of each sort the plan is compared with at its own price."""

    random: Count = 19
    """Random directions of the same norm; fewer than 19 cannot reach p < 0.05."""
    covariance: Count = 3
    """Random directions with the covariance of the activations."""
    shuffled: Count = 2
    """Fits on shuffled labels."""
    flip: bool = True
    """Also the vector with its sign turned around."""


class JudgeSpec(Part):
    """How the plan's effect and cost are measured."""

    behaviour: Behaviour | None = None
    """How generated text is scored; null judges by the margin between the answers of a pair alone."""
    neutral: FileField | None = None
    """JSONL file of `{text}` rows that have nothing to do with the behaviour; null for the packaged ones."""
    capability: FileField | None = None
    """JSONL file of `{question, correct, incorrect}` rows; null for the packaged ones."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """Words that ask for the behaviour: a baseline to compare with, and the request of the ablation test."""
    placebos: Placebos = Placebos()
    """How many placebos the plan is compared with."""
    prompts: int = Field(default=20, ge=2, le=10_000)
    """Held-out prompts that are answered, at most."""
    tokens: int = Field(default=32, ge=1, le=4096)
    """Tokens of each answer, at most."""
    curve: tuple[Nats, ...] = (0.03, 0.1, 0.3)
    """KL budgets, in nats per token, at which the effect is drawn."""
    questions: FileField | None = None
    """JSONL file of `{question, answer}` rows, on which tokens saved are set against accuracy kept; null for none."""

    @field_validator("curve")
    @classmethod
    def _no_repeats(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names one budget twice")
        return tuple(sorted(value))


class Require(Part):
    """What a version must show before an alias may name it. Each number counts with its interval: the end that speaks
    against the version must satisfy the bound."""

    effect: float | None = None
    """At least: the lower end of the effect's interval, nats per token."""
    kl: Nats | None = None
    """At most: the upper end of the interval of KL(steered || base) on held-out prompts, nats per token."""
    damage: Nats | None = None
    """At most: the upper end of the interval of KL(base || steered) on neutral text, nats per token."""
    beats_placebos: bool = False
    """Whether the verdict must say that the plan beats its random placebos."""
    no_worse: bool = False
    """Whether effect, KL and damage must not be worse, beyond the noise of both, than those of the version that the
    alias names."""
    alias: str | None = None
    """The alias that a run moves to the version it published when all of this holds; null moves none."""

    @field_validator("alias")
    @classmethod
    def _is_alias(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_alias(value)
        except StoreError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _requires_something(self) -> "Require":
        if not (self.beats_placebos or self.no_worse) and (self.effect, self.kl, self.damage) == (None, None, None):
            raise ValueError("requires nothing; give effect, kl, damage, beats_placebos or no_worse, or remove it")
        return self
