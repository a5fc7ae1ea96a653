"""Doctor: what this machine has, what is missing, and what will be slow and why. Looks; changes nothing."""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from platform import machine, python_version, system

import torch
from packaging.requirements import Requirement
from prefect.settings import get_current_settings

from trimtab.steering.errors import SteeringError
from trimtab.steering.model.cache import cache_folder
from trimtab.steering.model.embedded import embedded_file
from trimtab.store import StoreError
from trimtab.store.housekeeping import lost_catalog
from trimtab.tasks.errors import RecipeError
from trimtab.tasks.home import Home

GIB = 1 << 30
FEW_CORES = 4
LITTLE_MEMORY = 6 * GIB
LITTLE_DISK = 2 * GIB
TIMEOUT = 3.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Check:
    """One finding. state: ok, slow or missing. advice: what it means and what to do, empty when all is well."""

    state: str
    name: str
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(home: Home) -> list[Check]:
    """Every check, in the order in which they matter."""
    return [*_versions(), _model(), _converted(), _home(home), _server(), *_machine(), _chromium()]


def server_url() -> str | None:
    """The Prefect API that the settings name; None when Prefect runs embedded."""
    return get_current_settings().api.url


def require_server() -> str:
    """The server's URL. Raises RecipeError when none is set or it does not answer."""
    url = server_url()
    if url is None:
        raise RecipeError(
            "no Prefect server is set, and a schedule needs one: `trimtab server --background`, then "
            "`export PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )
    trouble = _unreachable(url)
    if trouble:
        raise RecipeError(f"the Prefect server {url} does not answer ({trouble}): `trimtab server --background`")
    return url


def require_reachable() -> None:
    """Raises RecipeError when the settings name a server and it does not answer; without one, Prefect is embedded."""
    if server_url() is not None:
        require_server()


def _versions() -> Iterator[Check]:
    yield Check("ok", "python", python_version())
    for text in requires("trimtab") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _version(requirement)


def _version(requirement: Requirement) -> Check:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        cure = f"pip install '{requirement.name}{requirement.specifier}'"
        return Check("missing", requirement.name, "not installed", cure)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Check("missing", requirement.name, installed, f"trimtab needs {requirement.specifier}; install it")
    return Check("ok", requirement.name, installed)


def _model() -> Check:
    try:
        return Check("ok", "embedded model", str(embedded_file()))
    except SteeringError as error:
        return Check("missing", "embedded model", "not found", str(error))


def _converted() -> Check:
    folder = cache_folder() / "models"
    if folder.is_dir() and any(folder.glob("smollm2-*/config.json")):
        return Check("ok", "model cache", str(folder))
    return Check("slow", "model cache", "empty", f"the first load converts the embedded model into {folder}: a minute")


def _home(home: Home) -> Check:
    try:
        lost, names = lost_catalog(home.catalog, home.captures), len(home.catalog.names())
    except (StoreError, OSError) as error:
        return Check("missing", "home", home.url, str(error))
    if lost:
        return Check("missing", "home", home.url, lost)
    return (
        _folder(Path(home.root.root))
        if home.root.scheme == "file"
        else Check("ok", "home", f"{home.url}: {names} names")
    )


def _folder(root: Path) -> Check:
    there = root
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check("missing", "home", str(root), f"{there} cannot be written; choose another with --home")
    free = shutil.disk_usage(there).free
    place = f"{root}{'' if root.exists() else ' (not made yet)'}, {free / GIB:.0f} GiB free"
    if free < LITTLE_DISK:
        return Check("missing", "home", place, "a capture of 200 pairs takes about 1 GiB; free some space")
    return Check("ok", "home", place)


def _server() -> Check:
    url = server_url()
    if url is None:
        return Check(
            "slow", "prefect", "embedded", "each run starts a temporary server: 5 to 15 s; a server saves them"
        )
    trouble = _unreachable(url)
    if trouble:
        return Check("missing", "prefect", url, f"does not answer ({trouble}); start it, or unset PREFECT_API_URL")
    return Check("ok", "prefect", url)


def _unreachable(url: str) -> str | None:
    if not url.startswith(("http://", "https://")):
        return "not an http address"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=TIMEOUT) as answer:
            return None if answer.status == 200 else f"status {answer.status}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _machine() -> Iterator[Check]:
    cores, threads = _cores(), torch.get_num_threads()
    few = cores < FEW_CORES and not torch.cuda.is_available()
    yield Check(
        "slow" if few else "ok",
        "cores",
        f"{cores} cores, {threads} threads, {machine()} {system()}",
        "placebos and rollouts run one after another: minutes a recipe; fewer `judge.placebos` is faster"
        if few
        else "",
    )
    memory = _memory()
    little = 0 < memory < LITTLE_MEMORY
    advice = "models above 1B parameters in float32 will not fit; use dtype bfloat16" if little else ""
    yield Check("slow" if little else "ok", "memory", f"{memory / GIB:.0f} GiB" if memory else "unknown", advice)
    if torch.cuda.is_available():
        yield Check("ok", "gpu", torch.cuda.get_device_name(0))
    else:
        yield Check("slow", "gpu", "none", "models above 1B parameters take seconds a token; SmolLM2 is fine")


def _cores() -> int:
    """Cores that this process may use: containers often give fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory() -> int:
    """Bytes this process may use, 0 when unknown: the container's limit where there is one."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text)) if text.isdecimal() else whole


def _chromium() -> Check:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    advice = "" if program else "only one test of the report uses it; reports open in any browser"
    return Check("ok", "chromium", program or "none", advice)
