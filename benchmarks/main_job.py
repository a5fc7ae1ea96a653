"""CPU seconds of every stage of the main job, one thread, for one or several checkouts in turn.

    python benchmarks/main_job.py                                   # this checkout
    python benchmarks/main_job.py . ../before --rounds 2            # two checkouts, interleaved
    python benchmarks/main_job.py . --recipe recipes/french.yaml

A checkout is a folder with a `.venv`. Each run has an empty home of its own and no Prefect server: capture, fit, judge,
publish are called as the flow calls them. The verdict's numbers are printed side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", default=["."])
    parser.add_argument("--recipe", default="recipes/cheerful.yaml")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where all numbers are written")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.recipe)
    runs = [run(Path(checkout), args.recipe, args.threads) for _ in range(args.rounds) for checkout in args.checkouts]
    if args.json:
        args.json.write_text(json.dumps(runs, indent=1), "utf-8")
    show(runs, args.checkouts)


def run(checkout: Path, recipe: str, threads: int) -> dict[str, Any]:
    """One main job in a checkout, by its own interpreter."""
    cores = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores, "HF_HUB_OFFLINE": "1"}
    command = [checkout.absolute() / ".venv/bin/python", Path(__file__).absolute(), "--worker", "--recipe", recipe]
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, check=True)
    return {"checkout": str(checkout), **json.loads(done.stdout.splitlines()[-1])}


class Clock:
    """A progress sink: CPU seconds between two reports belong to the stage that was announced last."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.firsts: dict[str, float] = {}
        self._stage, self._since, self._began = "start", 0.0, time.process_time()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._turn(stage if done < total else "between")

    def _turn(self, stage: str) -> None:
        now = time.process_time()
        self.stages[self._stage] = self.stages.get(self._stage, 0.0) + now - self._since
        self.firsts.setdefault(stage, now)
        self._stage, self._since = stage, now

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        """What the work returns; its seconds outside stages of its own count as `stage`."""
        self._turn(stage)
        result = work()
        self._turn("between")
        return result


def worker(recipe: str) -> None:
    """Run by the checkout's own interpreter: prints one line of JSON."""
    clock = Clock()
    from trimtab.tasks.collecting.capture import capture_recipe
    from trimtab.tasks.home import Home
    from trimtab.tasks.plans.fit import fit_recipe
    from trimtab.tasks.plans.publish import publish_recipe
    from trimtab.tasks.plans.validate import validate_recipe
    from trimtab.tasks.progress import watched
    from trimtab.tasks.recipes.kinds import RecipeFile

    behaviour = RecipeFile.read(recipe).recipe
    with tempfile.TemporaryDirectory() as folder, watched(clock):
        home = Home.at(folder)
        capture = clock.timed("capture", lambda: capture_recipe(behaviour, home))
        fitted = clock.timed("fit", lambda: [fit_recipe(behaviour, home, capture, f) for f in behaviour.fit.fitters])
        verdict = clock.timed("judge", lambda: validate_recipe(behaviour, home, capture, fitted))
        clock.timed("publish", lambda: publish_recipe(behaviour, home, verdict))
        header = home.catalog.get(verdict.ref).header["verdict"]
    print(json.dumps({"stages": clock.stages, "total": time.process_time(), "verdict": header}))
    sys.stdout.flush()


def show(runs: list[dict[str, Any]], checkouts: list[str]) -> None:
    """Stages and verdicts side by side: the median of the rounds."""
    columns = [[one for one in runs if one["checkout"] == checkout] for checkout in checkouts]
    stages = dict.fromkeys(stage for one in runs for stage in one["stages"])
    print("| CPU seconds | " + " | ".join(checkouts) + " |\n|---" + "|---" * len(checkouts) + "|")
    for stage in stages:
        print(row(stage, [median(one["stages"].get(stage, 0.0) for one in column) for column in columns], ".1f"))
    print(row("all", [median(one["total"] for one in column) for column in columns], ".1f"))
    verdicts = [column[0]["verdict"] for column in columns]
    print("\n| verdict | " + " | ".join(checkouts) + " |\n|---" + "|---" * len(checkouts) + "|")
    print(f"| site | {' | '.join(one['site'] for one in verdicts)} |")
    for name in [one["name"] for one in verdicts[0]["contenders"]]:
        each = [next(one for one in verdict["contenders"] if one["name"] == name) for verdict in verdicts]
        cells = [f"{one['site']} {one['kl']:.4f} {one['effect']['margin']['mean']:+.4f}" for one in each]
        print(f"| {name}: site, KL, margin | {' | '.join(cells)} |")


def row(name: str, values: list[float], form: str) -> str:
    """One line of a table."""
    return f"| {name} | {' | '.join(format(value, form) for value in values)} |"


if __name__ == "__main__":
    main()
