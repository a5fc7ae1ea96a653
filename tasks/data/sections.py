"""The parts of a recipe that name data files: which files there are, and how their rows are split."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from trimtab.tasks.data.files import file_digest
from trimtab.tasks.errors import DataError, did_you_mean

KEYS = ("prompt", "positive", "negative", "completion", "text", "messages")  # of a row, whatever a file calls them
SPLITS = ("fit", "select", "report")

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what torch, numpy and scikit-learn all take


class Part(BaseModel):
    """Base of every section: frozen, unknown keys refused, no conversions (`"8"` is not 8), no NaN or infinity.

    The text under a field is its description in `trimtab schema`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataFile(Part):
    """A file that a recipe names, as it was when the recipe was read."""

    path: str
    """Absolute path of the file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of the file's bytes."""

    @classmethod
    def at(cls, path: Path) -> "DataFile":
        """Raises ValueError when it is not a file that can be read."""
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file")
        if not path.exists():
            raise ValueError(f"no such file: {path}")
        cls.check_plain(path)
        try:
            return cls(path=str(path.resolve()), sha256=file_digest(path))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None

    def unchanged(self) -> Path:
        """Its path. Raises DataError when it cannot be read, or is not what it was when the recipe was read."""
        path = Path(self.path)
        try:
            now = file_digest(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        if now != self.sha256:
            raise DataError(f"{path}: changed since the recipe was read; run the recipe again")
        return path

    @staticmethod
    def check_plain(path: Path) -> None:
        """Raises ValueError for a pipe or a device, which may never end; a file that is gone is no error here."""
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a plain file")


def expanded(text: str) -> Path:
    """A path with its `~` replaced. Raises ValueError for a user that does not exist."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"'{text}' names a user that does not exist") from None


def _data_file(value: object, info: ValidationInfo) -> object:
    """A path as text is read relative to the recipe's folder; a DataFile in its JSON form stays as it is."""
    if isinstance(value, dict) and isinstance(value.get("path"), str) and "\0" not in value["path"]:
        DataFile.check_plain(Path(value["path"]))
    if isinstance(value, DataFile | dict):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a file name, got {value!r}")
    if not value.strip() or "\0" in value:
        raise ValueError("a file name is needed")
    return DataFile.at(Path((info.context or {}).get("folder", ".")) / expanded(value))


FileField = Annotated[DataFile, BeforeValidator(_data_file, json_schema_input_type=str)]


class Split(Part):
    """Shares of the prompts, which are assigned by hashing each prompt; they sum to 1."""

    fit: Share = 0.5
    """Share of the prompts that vectors are fitted on."""
    select: Share = 0.2
    """Share on which site and strength are chosen."""
    report: Share = 0.3
    """Share on which the published numbers are measured, and nothing is chosen."""
    seed: Seed = 0
    """Seed of the hash; another seed assigns the prompts anew."""

    @model_validator(mode="after")
    def _whole(self) -> "Split":
        total = sum(self.shares)
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"fit {self.fit:g} + select {self.select:g} + report {self.report:g} = {total:g}; must be 1"
            )
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of fit, select and report, in this order."""
        return (self.fit, self.select, self.report)

    def of(self, identity: str) -> str:
        """The split of a prompt. identity: what tells it from other prompts."""
        return split_of(identity, self.shares, self.seed)


def split_of(identity: str, shares: Sequence[float], seed: int) -> str:
    """fit, select or report, by hashing. Adding rows moves no other row, and a prompt is always in one split.

    shares: of fit, select and report; they sum to 1.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}\0{identity}".encode()).digest()[:8], "big") / 2**64
    return SPLITS[0] if number < shares[0] else SPLITS[1] if number < shares[0] + shares[1] else SPLITS[2]


class Data(Part):
    """The contrast: files of pairs, or one file of positive and one of negative texts. JSONL or Parquet."""

    pairs: FileField | None = None
    """File with `prompt`, `positive` and `negative` in every row; or give `positive` and `negative` files instead."""
    positive: FileField | None = None
    """File of texts that show the behaviour: `prompt` and `completion`, `text` or `messages` in every row."""
    negative: FileField | None = None
    """File of texts that do not show the behaviour, with the same keys."""
    columns: Mapping[str, str] | None = None
    """What the files call these keys, as `{prompt: question, positive: good}`; other columns are ignored."""
    chat: bool = True
    """Put prompts through the model's chat template; false leaves them as plain text."""
    system: str | None = Field(default=None, min_length=1)
    """System message before every prompt."""
    split: Split = Split()
    """Shares of the prompts to fit on, to choose on and to report on."""

    @model_validator(mode="after")
    def _pairs_or_classes(self) -> "Data":
        files = [name for name in ("pairs", "positive", "negative") if getattr(self, name) is not None]
        if files not in (["pairs"], ["positive", "negative"]):
            raise ValueError(f"give `pairs`, or both `positive` and `negative`; given: {', '.join(files) or 'none'}")
        if self.positive is not None and self.negative is not None and self.positive.sha256 == self.negative.sha256:
            raise ValueError("positive and negative are the same text, so there is nothing to fit")
        return self

    def check_unchanged(self) -> None:
        """Raises DataError when a file is not what it was when the recipe was read."""
        for file in (self.pairs, self.positive, self.negative):
            if file is not None:
                file.unchanged()

    @field_validator("columns")
    @classmethod
    def _our_keys(cls, value: Mapping[str, str] | None) -> Mapping[str, str] | None:
        for key in value or ():
            if key not in KEYS:
                raise ValueError(f"unknown key '{key}'{did_you_mean(key, KEYS)}; write ours: theirs")
        return value or None


class Sentences(Part):
    """Plain sentences, with or without a concept; JSONL files of `{text}` rows."""

    concepts: Mapping[str, FileField] = Field(default_factory=dict)
    """Files of sentences by the name of the concept that they express."""
    texts: tuple[FileField, ...] = ()
    """More files of sentences, without a concept, to fit on."""
    chat: bool = False
    """Put prompts through the chat template when steering with a feature; the sentences themselves stay plain text."""
    system: str | None = Field(default=None, min_length=1)
    """System message before every prompt that is steered."""
    split: Split = Split(fit=0.4, select=0.2, report=0.4)
    """Shares of the sentences to fit on, to choose rank and sparsity on, and to report on."""

    @model_validator(mode="after")
    def _something(self) -> "Sentences":
        if not self.concepts and not self.texts:
            raise ValueError("give `concepts` or `texts`; there is nothing to read activations from")
        return self


class MarkedPrompts(Part):
    """Prompts that say whether the plan is wanted for them."""

    prompts: FileField
    """JSONL file with `prompt` and `wanted` (true or false) in every row."""
    split: Split = Split(fit=0.4, select=0.3, report=0.3)
    """Shares of the prompts to fit on, to choose the threshold on, and to report on."""
