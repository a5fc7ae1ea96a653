"""hf: a folder in the form of a Hugging Face model repository, for the Hub or a disk.

`plan.safetensors` is trimtab's own file (everything that the plan is), `config.json` names the format and the base
model, `README.md` is the model card. `Hf().read(folder)` reads it. Nothing in it is ever executed.
"""

import json
from pathlib import Path
from typing import Any

from trimtab.steering.errors import BadFile, CannotExport
from trimtab.steering.export.base import About, Format
from trimtab.steering.plans.plan import SteeringPlan
from trimtab.steering.whole import written_whole

PLAN, CONFIG, CARD = "plan.safetensors", "config.json", "README.md"
KIND = "trimtab-steering-plan"
FORMAT_VERSION = 1


class Hf(Format):
    """A model repository."""

    suffix = ""
    tool = "the Hugging Face Hub"

    def write(self, plan: SteeringPlan, path: Path, about: About) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CannotExport(f"{path} exists and is not an empty folder; name a new one, nothing is overwritten")
        with written_whole(path) as part:
            plan.save(part / PLAN)
            (part / CONFIG).write_text(json.dumps(_config(plan, about), indent=2) + "\n")
            (part / CARD).write_text(about.card or card(about, ""))

    def read(self, path: Path) -> SteeringPlan:
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadFile(f"{path} has no readable {CONFIG}: {error}") from error
        if not isinstance(config, dict) or config.get("model_type") != KIND:
            raise BadFile(f"{path}/{CONFIG} does not say model_type '{KIND}': this is no steering plan of trimtab")
        return SteeringPlan.load(path / PLAN)


def card(about: About, body: str) -> str:
    """A model card: the Hub's front matter, then `body` in Markdown (price, placebos, limits)."""
    lines = ["---", "library_name: trimtab", "tags: [activation-steering, steering-vector, trimtab]"]
    if "/" in about.model_id and not about.model_id.startswith((".", "/")):  # a Hub id, no folder of this machine
        lines += [f"base_model: {json.dumps(about.model_id)}", "base_model_relation: adapter"]
    if about.licence:
        lines.append(f"license: {json.dumps(about.licence)}")
    title = [f"# {about.name}", "", about.description or "A steering plan for trimtab.", ""]
    return "\n".join([*lines, "---", "", *title, body]).rstrip() + "\n"


def _config(plan: SteeringPlan, about: About) -> dict[str, Any]:
    made_on = None if plan.model is None else plan.model.to_json()
    return {
        "model_type": KIND,
        "format": FORMAT_VERSION,
        "name": about.name,
        "base_model": about.model_id or None,
        "made_on": made_on,
        "sites": [str(step.site) for step in plan.interventions],
    }
