"""Peak memory of a collection, by the number of prompts.

    python benchmarks/memory.py [--most 100000]

A tiny random model with a recipe of 1000, 10000 and 100000 prompts (at most `--most`), each collected in a process of
its own with regions of 16 MiB. Resident memory after loading the model is subtracted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000, 100_000)
REGION_BYTES = 16 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory by the number of prompts")
    parser.add_argument("--most", type=int, default=SIZES[-1], help=f"prompts ({SIZES[-1]})")
    parser.add_argument("--collect", nargs=2, metavar=("RECIPE", "HOME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.collect:
        return print(json.dumps(collect(*args.collect)))
    print("| prompts | rows | activations | loaded | peak above that | seconds |\n|---|---|---|---|---|---|")
    for prompts in [size for size in SIZES if size <= args.most]:
        with tempfile.TemporaryDirectory() as name:
            found = in_a_process(Path(name), prompts)
        sizes = " | ".join(f"{found[key] / 1e6:.0f} MB" for key in ("bytes", "loaded", "above"))
        print(f"| {prompts} | {found['rows']} | {sizes} | {found['seconds']:.0f} |", flush=True)


def in_a_process(folder: Path, prompts: int) -> dict[str, float]:
    """One collection; two prompts are one pair."""
    import tiny

    recipe = tiny.make(folder, prompts // 2, ["points: [resid_post]", "span: all"])
    command = [sys.executable, __file__, "--collect", str(recipe), str(folder / "home")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **ONE})
    return json.loads(done.stdout.splitlines()[-1])


ONE = {"OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def collect(recipe: str, home: str) -> dict[str, float]:
    """Peaks in bytes, seconds of the collection."""
    from trimtab.store import ActivationStore
    from trimtab.tasks.collecting.capture import capture_recipe
    from trimtab.tasks.home import Home
    from trimtab.tasks.models import model_of
    from trimtab.tasks.recipes.kinds import load_recipe

    asked = load_recipe(recipe)
    model_of(asked.model)
    loaded, began = peak(), time.monotonic()
    store = ActivationStore.open(capture_recipe(asked, Home.at(home), REGION_BYTES).url)
    seconds = time.monotonic() - began
    return {
        "rows": store.n_rows,
        "bytes": store.nbytes,
        "loaded": loaded,
        "above": peak() - loaded,
        "seconds": seconds,
    }


def peak() -> int:
    """Most bytes that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
