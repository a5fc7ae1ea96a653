"""A plan as a model repository: a folder of three files, on a disk or on the Hugging Face Hub.

`plan.safetensors` is everything that the plan is, `config.json` names the format, the base model and the sha256 of that
file, `README.md` is the model card. Reading takes data only: the two files by these names, never a path from inside one
of them, and nothing is executed.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from trimtab.steering.errors import BadFile, CannotExport
from trimtab.steering.plans.pack import Packed
from trimtab.steering.whole import written_whole

PLAN, CONFIG, CARD = "plan.safetensors", "config.json", "README.md"
KIND = "trimtab-steering-plan"
FORMAT_VERSION = 1
LARGEST_CONFIG = 2**20  # bytes
TAGS = "activation-steering, steering-vector, trimtab"
TRANSPORT_ERROR: Any = HfHubHTTPError.__bases__[0]  # of the HTTP client that the Hub's client uses: httpx or httpx2
HUB_ERRORS = (OSError, ValueError, EntryNotFoundError, TRANSPORT_ERROR)


@dataclass(frozen=True)
class About:
    """What files want to say beside their vectors. name: of the plan. model_id: of the model that it steers, as a
    Hub id or a path. description: one sentence. licence: an SPDX name. card: what a model card says below the
    description, in Markdown (only a model repository has one)."""

    name: str = "plan"
    model_id: str = ""
    description: str = ""
    licence: str = ""
    card: str = ""


def write_repository(packed: Packed, folder: Path, about: About) -> None:
    """Write the folder, whole or not at all. Raises CannotExport when it is there and not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CannotExport(f"{folder} exists and is not an empty folder; name a new one, nothing is overwritten")
    with written_whole(folder) as part:
        packed.save(part / PLAN)
        config = _config(packed, about) | {"sha256": _sha256(part / PLAN)}
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (part / CARD).write_text(_card(about), encoding="utf-8")


def read_repository(source: str | Path, revision: str | None = None) -> Packed:
    """The plan's arrays and header, from a folder, or from a repository of the Hub (`owner/name`), of which the two
    files that are read are downloaded to the Hub's own cache. revision: branch, tag or commit; the Hub's alone.

    Raises BadFile for what is no plan's repository, and for a Hub that does not give it; BadPlan for a bad plan.
    """
    folder = Path(source)
    if folder.exists():
        config, plan = (_inside(folder, name) for name in (CONFIG, PLAN))
    else:
        config, plan = (_downloaded(str(source), name, revision) for name in (CONFIG, PLAN))
    stated = _read_config(config, source)
    if stated.get("sha256", _sha256(plan)) != _sha256(plan):  # folders of the first version do not state it
        raise BadFile(f"{source}: {PLAN} is not the file that {CONFIG} was written for (its sha256 differs)")
    return Packed.load(plan)


def push_repository(packed: Packed, repo_id: str, about: About, revision: str | None, private: bool | None) -> str:
    """Write the folder and upload it in one commit; returns the commit's address. The repository is made when it is
    not there. The token is the one of `hf auth login` or $HF_TOKEN. Raises CannotExport with what the Hub said."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "plan"
        write_repository(packed, folder, about)
        try:
            validate_repo_id(repo_id)
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=f"Steering plan {about.name}"
            )
        except HUB_ERRORS as error:
            raise CannotExport(f"the Hub did not take {repo_id}: {_line(error)}") from error
    return str(commit.commit_url)


@contextmanager
def downloaded_repository(repo_id: str) -> Iterator[Path]:
    """A folder with the files of a repository of the Hub that are read, while the block runs. Raises BadFile."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (CONFIG, PLAN):
            (Path(scratch) / name).write_bytes(_downloaded(repo_id, name, None).read_bytes())
        yield Path(scratch)


def _config(packed: Packed, about: About) -> dict[str, Any]:
    return {
        "model_type": KIND,
        "format": FORMAT_VERSION,
        "name": about.name,
        "base_model": about.model_id or None,
        "made_on": packed.header["model"],
        "sites": [step["site"] for step in packed.header["interventions"]],
    }


def _card(about: About) -> str:
    """A model card: the Hub's front matter, then title, description and card in Markdown."""
    lines = ["---", "library_name: trimtab", f"tags: [{TAGS}]"]
    if "/" in about.model_id and not about.model_id.startswith((".", "/")):  # a Hub id, no folder of this machine
        lines += [f"base_model: {json.dumps(about.model_id)}", "base_model_relation: adapter"]
    if about.licence:
        lines.append(f"license: {json.dumps(about.licence.lower())}")
    title = [f"# {about.name}", "", about.description or "A steering plan for trimtab.", ""]
    return "\n".join([*lines, "---", "", *title, about.card]).rstrip() + "\n"


def _read_config(path: Path, source: str | Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise BadFile(f"{source}: {CONFIG} is larger than {LARGEST_CONFIG:,} bytes, which no plan's is")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(f"{source} has no readable {CONFIG}: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != KIND:
        raise BadFile(f"{source}/{CONFIG} does not say model_type '{KIND}': this is no steering plan of trimtab")
    if config.get("format") != FORMAT_VERSION:
        raise BadFile(
            f"{source}/{CONFIG} says format {config.get('format')!r}, and this trimtab reads {FORMAT_VERSION}; a "
            f"higher one was written by a newer trimtab"
        )
    return config


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder. Links are followed within it, and, in a snapshot of the Hub's cache, to the cache's own
    blobs. Raises BadFile for one that leads elsewhere or is no regular file."""
    path, home = (folder / name).resolve(), folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(path.is_relative_to(place) for place in homes):
        raise BadFile(f"{folder}/{name} is a link that leads out of the folder, to {path}; put the file itself there")
    if not path.is_file():
        raise BadFile(f"{folder} has no readable {name}: it is no folder of `export --to hf`")
    return path


def _downloaded(repo_id: str, name: str, revision: str | None) -> Path:
    try:
        validate_repo_id(repo_id)
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except HUB_ERRORS as error:
        raise BadFile(f"'{repo_id}' is no folder here, and the Hub does not give its {name}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    if constants.HF_HUB_OFFLINE:
        return "this process may not ask it (HF_HUB_OFFLINE)"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
