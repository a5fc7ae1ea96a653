"""ImportedRecipe: where a plan came from that was read from another tool's file. Nothing of it was fitted, priced or
judged here; versions carry it, and `trimtab run` runs none."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from trimtab.steering.model.tokens import PromptFormat
from trimtab.tasks.data.sections import Part
from trimtab.tasks.recipes.base import ModelRecipe


class Source(Part):
    """The file, as it was when it was read."""

    path: str
    """Where it lay."""
    sha256: str
    """Digest of the file; of a folder, over the names and contents of its files."""
    format: str
    """Name of the format it was read as."""


class ImportedRecipe(ModelRecipe):
    """A file of another tool, and the model that its plan is for."""

    FORMAT: ClassVar[int] = 1
    STAGES: ClassVar[tuple[str, ...]] = ("import",)

    kind: Literal["imported"] = "imported"
    """Always `imported`."""
    source: Source
    """The file that was read."""
    chat: bool = True
    """Whether prompts are put to the model through its chat template."""

    @property
    def form(self) -> PromptFormat:
        """How prompts are put to the model."""
        return PromptFormat(chat=self.chat)

    def check_files(self, judged: bool = True) -> None:
        """There are none: the plan is in the catalog."""

    def parts_of(self, stage: str, parents: Sequence[str]) -> dict[str, Any]:
        """import: the model, the file's content and its format."""
        values = self.canonical()
        source = {key: values["source"][key] for key in ("sha256", "format")}
        return {"model": values["model"], "source": source}
