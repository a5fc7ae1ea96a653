"""What it costs to start: CPU seconds of commands in a process of their own, beside a bare interpreter.

    python benchmarks/start.py [--rounds 5]

Every command runs in a home with two versions. `torch + transformers` is what every
command pays at least that runs a model. CPU time of the child (user and system): the wall clock of a machine that
others use says nothing.
"""

import os
import resource
import subprocess
import sys
import tempfile
from random import Random
from statistics import median

from ratio import arguments, setting

from trimtab.store import Catalog

MODEL = "import torch, transformers.modeling_utils"
CASES = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "torch + transformers": [sys.executable, "-c", MODEL],
    **{
        f"trimtab {words}": [sys.executable, "-m", "trimtab.flows.cli", *words.split()]
        for words in (
            "--help",
            "ls",
            "show demo",
            "gc",
            "methods",
            "schema",
            "run recipes/cheerful.yaml --dry-run",
            "promote demo@1 prod",
        )
    },
}


def cpu_of(command: list[str], home: str) -> float:
    """CPU seconds of one process and its children. Raises CalledProcessError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "TRIMTAB_HOME": home})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = arguments(__doc__ or "", rounds=5)
    spent: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as home:
        for number in (1, 2):
            Catalog(f"{home}/catalog").publish("demo", "plan", {}, {"number": number})
        for number in range(-1, options.rounds):  # the first round is thrown away: it compiles
            for name in Random(number).sample(list(CASES), len(CASES)):
                seconds = cpu_of(CASES[name], home)
                if number >= 0:
                    spent[name].append(seconds)
    print(setting(options.threads), "\n\n| command | CPU seconds (median) | min to max |\n|---|---|---|")
    for name, seconds in spent.items():
        print(f"| `{name}` | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")


if __name__ == "__main__":
    main()
