"""A soak of the registry: writers of one catalog that are killed at random moments, flipped bits, malformed input.

    python benchmarks/soak.py [--operations 1000] [--flips 100] [--inputs 500] [--writers 10] [--home FOLDER|URL]

Writers publish, promote, roll back, tag and delete in one catalog, are killed (SIGKILL) at random moments and started
again; each notes an operation once it was acknowledged. At the end everything acknowledged must be there, once. A bit
is flipped in a random file of a home with a catalog and a capture; `verify` must find it, unless everything reads as
before. Malformed references, searches, remarks and recipes must be refused in words, and write nothing.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import tiny

from trimtab.store import Catalog, StoreError
from trimtab.store.captures.activations import ActivationStore
from trimtab.store.captures.index import TokenIndex
from trimtab.store.captures.schema import ArraySpec, Capture
from trimtab.store.catalog.places import Captures
from trimtab.store.verify import verify
from trimtab.tasks.errors import USER_ERRORS
from trimtab.tasks.recipes.kinds import load_recipe

NAMES = ("a", "b", "c")
WORDS = ("p@prod", "rows@1", "beats_random and kl < 0.3", "effect.low > 1", "capture:ab")
BREAKERS = "{}[]:@#\"'\\\n\0"


def write(url: str, log: str, seed: int) -> None:
    """One writer: random operations for ever, each noted when it was acknowledged."""
    random, catalog = Random(seed), Catalog(url)
    with open(log, "a", buffering=1) as notes:
        for step in range(10**9):
            name, text = random.choice(NAMES), f"{os.getpid()}-{seed}-{step}"
            with contextlib.suppress(StoreError):
                notes.write(json.dumps(operation(catalog, random, name, text)) + "\n")


def operation(catalog: Catalog, random: Random, name: str, text: str) -> list[object]:
    """Do something; returns what it was, to be found again."""
    deed = random.choice(("publish", "publish", "promote", "rollback", "tag", "delete"))
    if deed == "publish":
        version = catalog.publish(name, "plan", {"v": np.arange(3.0)}, {"text": text})
        return [deed, version.ref, version.digest]
    if deed in ("promote", "rollback"):
        move = (
            catalog.promote(name, "prod", note=text) if deed == "promote" else catalog.rollback(name, "prod", note=text)
        )
        return ["move", name, move.note]
    if deed == "tag":
        return [deed, name, catalog.remark(name, "tag", text).text]
    return [deed, catalog.delete(f"{name}@{random.choice(catalog.versions(name))}").ref, ""]


def soak_writers(url: str, writers: int, operations: int, seed: int) -> Counter[str]:
    """Kill and start writers until so many operations were acknowledged; then look for every one of them."""
    random, counts = Random(seed), Counter[str]()
    context = multiprocessing.get_context("fork")  # quick to start; safe, as this process has opened no store yet
    with tempfile.TemporaryDirectory() as folder:
        logs = [f"{folder}/{k}" for k in range(writers)]

        def begin(k: int) -> multiprocessing.Process:
            process = context.Process(target=write, args=(url, logs[k], random.randrange(2**32)))
            process.start()
            return process

        running = [begin(k) for k in range(writers)]
        sizes = dict.fromkeys(range(writers), 0)
        while len(acknowledged(logs)) < operations:
            time.sleep(random.uniform(0, 0.5))
            busy = [k for k in range(writers) if size(logs[k]) > sizes[k]]  # those that have begun to work
            if not busy:
                continue
            k = random.choice(busy)
            os.kill(running[k].pid or 0, signal.SIGKILL)
            running[k].join()
            counts["kills"] += 1
            sizes[k], running[k] = size(logs[k]), begin(k)
        for process in running:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        counts.update(missing(Catalog(url), acknowledged(logs)))
        return counts


def size(log: str) -> int:
    """Bytes of a log, 0 before it exists."""
    return os.path.getsize(log) if os.path.exists(log) else 0


def acknowledged(logs: list[str]) -> list[list[str]]:
    """Every whole line of the logs; a writer may have been killed while it wrote its last one."""
    lines = [line for log in logs if Path(log).exists() for line in Path(log).read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines if line.endswith("]")]


def missing(catalog: Catalog, operations: list[list[str]]) -> Counter[str]:
    """What was acknowledged and is not there, or is there twice; and what `verify` finds."""
    view, counts = catalog.view(), Counter({"acknowledged": len(operations)})
    gone = {ref for deed, ref, _ in operations if deed == "delete"}
    published = [(ref, digest) for deed, ref, digest in operations if deed == "publish"]
    counts["numbers given twice"] = len(published) - len({ref for ref, _ in published})
    for ref, digest in published:
        name, _, version = ref.partition("@")
        there = view.tombstone(name, int(version)) is not None or ref in gone or view.get(ref).digest == digest
        counts["lost versions"] += not there
    notes = {name: Counter(move.note for move in view.history(name).sound) for name in NAMES}
    tags = {name: Counter(remark.text for remark in view.remarks(name).sound) for name in NAMES}
    for deed, name, text in operations:
        if deed in ("move", "tag"):
            times = (notes if deed == "move" else tags)[name][text]
            counts["lost moves and tags"] += times == 0
            counts["moves and tags twice"] += times > 1
    counts["findings of verify"] = sum(not finding.ok for finding in verify(catalog))
    return counts


def soak_flips(flips: int, seed: int) -> Counter[str]:
    """Flip a bit of a random file, verify, put it back."""
    random, counts = Random(seed), Counter({"found by verify": 0, "harmless": 0, "MISSED": 0})
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        sample_home(home)
        before = everything(home)
        files = [path for path in sorted(home.rglob("*")) if path.is_file() and path.stat().st_size]
        for _ in range(flips):
            path = random.choice(files)
            whole = path.read_bytes()
            damaged = bytearray(whole)
            damaged[random.randrange(len(whole))] ^= 1 << random.randrange(8)
            path.write_bytes(damaged)
            if any(not finding.ok for finding in verify(Catalog(home / "catalog"))):
                counts["found by verify"] += 1
            else:
                counts["harmless" if everything(home) == before else "MISSED"] += 1
            path.write_bytes(whole)
    return counts


def sample_home(home: Path) -> None:
    """A capture, a plan made from it, an alias and a tag."""
    rng = np.random.default_rng(0)
    index = TokenIndex.plain(rng.integers(2, 9, 40))
    specs = (ArraySpec("resid_post.1", (64,), ("d_model",), "float32", chunk_rows=7),)
    store = ActivationStore.create(home / "captures" / "abc", Capture({"prompts": "p"}), index, specs, 8000)
    rows = rng.normal(size=(index.n_rows, 64)).astype(np.float32)
    for region in store.pending_regions():
        with store.region_writer(region) as writer:
            writer.write("resid_post.1", region.row_start, rows[region.row_start : region.row_stop])
    catalog = Catalog(home / "catalog")
    catalog.publish_capture("rows", store.finish())
    catalog.publish("p", "plan", {"v": rng.normal(size=5000)}, {"x": 1}, ["rows@1"])
    catalog.promote("p", "prod")
    catalog.remark("p", "tag", "good")


def everything(home: Path) -> object:
    """All that a reader sees, or the error that it gets."""
    try:
        catalog = Catalog(home / "catalog")
        plan = catalog.get("p@prod")
        rows = Captures.beside(catalog.location).open(catalog.get("rows")).rows("resid_post.1")
        return plan.digest, plan.arrays["v"].tobytes(), rows.tobytes(), catalog.about("p").tags
    except Exception as error:  # whatever a reader of damaged bytes gets
        return f"{type(error).__name__}"


def soak_inputs(inputs: int, seed: int) -> Counter[str]:
    """Mutated references, searches, remarks and recipes."""
    random, counts = Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        home, recipe = Path(folder) / "home", tiny.make(Path(folder) / "recipe", 8)
        sample_home(home)
        catalog, text = Catalog(home / "catalog"), recipe.read_text() + "require: {effect: 0.1, alias: prod}\n"
        snapshot = catalog.view().session
        for _ in range(inputs):
            counts[tried(catalog, recipe, text, random)] += 1
        same = catalog.view().session
        counts["writes by refused input"] = int(
            snapshot is None or same is None or snapshot.snapshot_id != same.snapshot_id
        )
    return counts


def tried(catalog: Catalog, recipe: Path, text: str, random: Random) -> str:
    """accepted, refused in words, or whatever else was raised."""
    word = mutated(
        random.choice(["p@prod", "rows@1", "beats_random and kl < 0.3", "effect.low > 1", "capture:ab"]), random
    )
    recipe.write_text(mutated(text, random), errors="surrogateescape")
    deeds = [
        lambda: catalog.get(word),
        lambda: catalog.search(word),
        lambda: catalog.search(sort=word),
        lambda: catalog.remark(word, random.choice(["tagg", "note"]), ""),
        lambda: load_recipe(recipe),
    ]
    try:
        random.choice(deeds)()
    except USER_ERRORS as error:
        return "refused in words" if str(error) else "refused without a word"
    except Exception as error:
        return f"OTHER: {type(error).__name__}"
    return "accepted"


def mutated(text: str, random: Random) -> str:
    """One to four characters exchanged, doubled or dropped."""
    letters = list(text)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(letters))
        letters[place] = random.choice(
            ["", letters[place] * 2, chr(random.randrange(1, 0x250)), random.choice(BREAKERS)]
        )
    return "".join(letters) or "x"


def tell(title: str, counts: Counter[str]) -> None:
    print(f"{title}: {', '.join(f'{name} {count}' for name, count in counts.items())}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", help="for the writers; a temporary folder by default")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="soak-")
    url = f"{options.home or folder}/catalog"
    tell("writers", soak_writers(url, options.writers, options.operations, options.seed))
    tell("flipped bits", soak_flips(options.flips, options.seed))
    tell("malformed input", soak_inputs(options.inputs, options.seed))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
