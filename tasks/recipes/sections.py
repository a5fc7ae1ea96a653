"""The sections of a recipe: frozen, closed to unknown keys, each value checked where it stands. What must agree
between sections is checked in `recipe.py`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.site import POINTS
from trimtab.steering.model.span import Span
from trimtab.store.captures.schema import REGION_BYTES
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
    """id: `smollm2` (embedded), a folder (begins with `.`, `/` or `~`), or a hub id. revision: of a hub id.

    checkpoint: sha256 of all that a folder holds, as it was when the recipe was read; None for other ids.
    """

    id: str = EMBEDDED
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
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
    found: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", piece)
        if not match:
            raise ValueError(f"'{text}' is not `all`, a list such as [4, 8] or a range such as 8-20")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {first}-{last} is empty; write {last}-{first}")
        found += range(first, last + 1)
    return found


Blocks = Annotated[
    Literal["all"] | tuple[int, ...], BeforeValidator(_blocks, json_schema_input_type=str | int | list[int])
]


class CaptureSpec(Part):
    """points: what to collect. blocks: `all` or numbers. span: which tokens. pool: null for a row per token, `mean`
    for one row per text. dtype: as stored. region_mb: MiB that are written and committed at once, null for 128; large
    models need more (docs/cluster.md)."""

    points: tuple[str, ...] = ("resid_post", "z")
    blocks: Blocks = "all"
    span: SpanText = "generated"
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    pool: Literal["mean"] | None = None
    region_mb: int | None = Field(default=None, ge=1, le=65536)

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


class FitSpec(Part):
    """fitter: a name on the shelf. fields: its hyper-parameters. point: where candidates are searched. pool: how one
    text's tokens become rows. span: where the plan acts. compare: other fitters, judged at equal KL."""

    fitter: str = "mean_difference"
    fields: Mapping[str, Any] = Field(default_factory=dict)
    point: str = "resid_post"
    pool: Literal["mean", "last", "tokens"] = "mean"
    span: SpanText = "all"
    compare: tuple[str, ...] = ()

    @property
    def fitters(self) -> tuple[str, ...]:
        """The fitter, then those to compare with."""
        return (self.fitter, *self.compare)


class SamplingSpec(Part):
    """How roll-outs are drawn, as you will sample from the steered model: temperature (0 is greedy), top_k (0 for all
    tokens), top_p (1 for all). The KL is taken at this temperature (at 1 where greedy), before top_k and top_p, which
    make two distributions infinitely far apart."""

    temperature: float = Field(default=1.0, ge=0, le=100)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class Budget(Part):
    """kl: mean KL(steered || base), nats per generated token. tolerance: how near counts as met, as a share of kl.
    sampling: of the roll-outs that are priced."""

    kl: Nats = 0.1
    tolerance: Share = 0.1
    sampling: SamplingSpec = SamplingSpec()


class Behaviour(Part):
    """How generated text is scored, higher meaning more of the behaviour: positive minus negative words of a lexicon,
    brevity (minus the length in tokens), or share of a language's function words."""

    metric: Literal["lexicon", "length", "language"]
    lexicon: FileField | None = None
    language: Literal["en", "fr", "de", "es", "it"] | None = None

    @model_validator(mode="after")
    def _fits_metric(self) -> "Behaviour":
        for name in ("lexicon", "language"):
            given = getattr(self, name) is not None
            if given != (self.metric == name):
                cure = f"`{name}` is for metric {name}, not {self.metric}" if given else f"metric {name} needs `{name}`"
                raise ValueError(cure)
        return self


class Placebos(Part):
    """How many of each: norm-matched random, covariance-matched random, label-shuffled refits; and the flipped sign.
    Fewer than 19 random ones cannot reach p < 0.05."""

    random: Count = 19
    covariance: Count = 3
    shuffled: Count = 2
    flip: bool = True


class JudgeSpec(Part):
    """behaviour: score of generated text, or null. neutral, capability: files, null for the packaged ones.
    system_prompt: the prompt baseline, and what asks for the behaviour in the ablation test. prompts, tokens: of
    rollouts. curve: KL budgets at which the effect is drawn. questions: `{question, answer}` per line, on which tokens
    saved are set against accuracy kept, or null."""

    behaviour: Behaviour | None = None
    neutral: FileField | None = None
    capability: FileField | None = None
    system_prompt: str | None = Field(default=None, min_length=1)
    placebos: Placebos = Placebos()
    prompts: int = Field(default=20, ge=2, le=10_000)
    tokens: int = Field(default=32, ge=1, le=4096)
    curve: tuple[Nats, ...] = (0.03, 0.1, 0.3)
    questions: FileField | None = None

    @field_validator("curve")
    @classmethod
    def _no_repeats(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names one budget twice")
        return tuple(sorted(value))
