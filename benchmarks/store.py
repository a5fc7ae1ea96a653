"""The store against a raw memory map, in the collector's shape: ragged texts written batch by batch, and read back in
order, at random, and as a shuffled epoch; and what the lossless codec saves on activations of the real model.

    python benchmarks/store.py [--rounds 5] [--rows 400000] [--threads 1]

One site of 576 float16 numbers a row. The memory map is written without flushing it; the store hashes every row, checks
that it is finite, and commits regions of 128 MiB, each while the next one fills (as a collection does: the same
Committer). What a case wrote is deleted, untimed, before the next. A cold read begins with the files dropped from the
page cache, on both sides.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")

import numpy as np
import torch
from ratio import Case, arguments, measure, setting, table

from trimtab.steering.model.anatomy import Anatomy
from trimtab.steering.model.load import load_model
from trimtab.steering.model.site import Site
from trimtab.steering.model.tokens import PromptFormat, tokenize
from trimtab.steering.running.reading import capture
from trimtab.store import ActivationStore, ArraySpec, Capture, TokenIndex
from trimtab.tasks.collecting.filling import Committer

WIDTH, SITE, TEXTS = 576, "resid_post.15", 16
READ = 4096
RECIPE = Path(__file__).parents[1] / "recipes" / "cheerful.jsonl"


def main() -> None:
    args = arguments("store against memory map", 5, [("rows", 400_000, "rows of the array")])
    torch.set_num_threads(args.threads)
    lengths = np.random.default_rng(0).integers(20, 199, args.rows // 100)
    rows = np.random.default_rng(1).standard_normal((int(lengths.sum()), WIDTH), np.float32).astype(np.float16)
    print(setting(args.threads), end="\n\n")
    with tempfile.TemporaryDirectory() as name:
        folder, index = Path(name), TokenIndex.plain(lengths)
        size = f"{len(rows)} rows of {WIDTH} float16, {rows.nbytes / 1e6:.0f} MB, {len(lengths)} texts"
        print(table(f"Writing {size}", measure(writing(folder, index, rows), args.rounds)), end="\n\n")
        clear(folder)
        made = mapped(folder, index, rows), stored(folder, index, rows), stored(folder, index, rows, checksum=False)
        for title, cases in reading(*made).items():
            print(table(title, measure(cases, args.rounds)), end="\n\n")
    print(savings())


def batches_of(index: TokenIndex) -> Iterator[slice]:
    """Rows of 16 texts at a time."""
    edges = [*index.offsets[:-1:TEXTS].tolist(), index.n_rows]
    yield from (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True))


def mapped(folder: Path, index: TokenIndex, rows: np.ndarray, flush: bool = False) -> Path:
    """A memory map, written batch by batch."""
    path = folder / uuid.uuid4().hex
    into = np.memmap(path, np.float16, "w+", shape=rows.shape)
    for here in batches_of(index):
        into[here] = rows[here]
    if flush:
        into.flush()
    return path


def stored(
    folder: Path, index: TokenIndex, rows: np.ndarray, codec: str = "none", checksum: bool = True
) -> ActivationStore:
    """A finished capture, written batch by batch."""
    spec = replace(ArraySpec.of(SITE, (WIDTH,), "float16", codec), checksum=checksum)
    store = ActivationStore.create(str(folder / uuid.uuid4().hex), Capture({}), index, [spec])
    with Committer(store.commit) as committer:
        for region in store.pending_regions():
            buffer = store.buffer(region)
            for prompt in range(region.prompt_start, region.prompt_stop, TEXTS):
                start = index.offsets[prompt]
                stop = index.offsets[min(prompt + TEXTS, region.prompt_stop)]
                buffer.write(SITE, slice(int(start), int(stop)), rows[start:stop])
            committer.commit(buffer)
    return store.finish()


def appended(folder: Path, index: TokenIndex, rows: np.ndarray) -> None:
    """One .npy file a batch, as collections are often written by hand."""
    place = folder / uuid.uuid4().hex
    place.mkdir()
    for number, here in enumerate(batches_of(index)):
        np.save(place / f"{number}.npy", rows[here])


def writing(folder: Path, index: TokenIndex, rows: np.ndarray) -> list[Case]:
    acts = {
        "memory map": lambda: mapped(folder, index, rows),
        "memory map, flushed": lambda: mapped(folder, index, rows, flush=True),
        "one .npy file a batch": lambda: appended(folder, index, rows),
        "store": lambda: stored(folder, index, rows),
        "store, no checksums": lambda: stored(folder, index, rows, checksum=False),
        "store, codec `small`": lambda: stored(folder, index, rows, "small"),
    }
    return [Case(name, act, before=lambda: clear(folder)) for name, act in acts.items()]


def clear(folder: Path) -> None:
    """Delete what is in a folder."""
    for place in folder.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def reading(path: Path, store: ActivationStore, unchecked: ActivationStore) -> dict[str, list[Case]]:
    """Tables by title; every case ends with float32 rows in memory."""
    shape = (store.n_rows, WIDTH)
    order = np.random.default_rng(0)

    def from_map(numbers: Callable[[], Iterator[np.ndarray | slice]]) -> None:
        array = np.memmap(path, np.float16, "r", shape=shape)
        for some in numbers():
            array[some].astype(np.float32)

    def in_order() -> Iterator[slice]:
        yield from (slice(start, start + READ) for start in range(0, shape[0], READ))

    def epoch() -> Iterator[np.ndarray]:
        yield from np.array_split(order.permutation(shape[0]), range(READ, shape[0], READ))

    def forget() -> None:
        for place in (path, store.location.root, unchecked.location.root):
            drop(Path(place))

    def sequential(one: ActivationStore) -> None:
        for _ in one.batches(SITE, READ):
            pass

    def shuffled(one: ActivationStore) -> None:
        for _ in one.shuffled(SITE, READ, seed=0):
            pass

    few = np.sort(order.choice(shape[0], READ, replace=False))
    return {
        "Reading in order, warm": [
            Case("memory map", lambda: from_map(in_order)),
            Case("store.batches", lambda: sequential(store)),
            Case("store.batches, no checksums", lambda: sequential(unchecked)),
        ],
        "Reading in order, cold": [
            Case("memory map", lambda: from_map(in_order), before=forget),
            Case("store.batches", lambda: sequential(store), before=forget),
            Case("store.batches, no checksums", lambda: sequential(unchecked), before=forget),
        ],
        f"{READ} random rows, warm": [
            Case("memory map", lambda: from_map(lambda: iter([few]))),
            Case("store.random_rows", lambda: store.random_rows(SITE, READ, 0)),
            Case("store.random_rows, no checksums", lambda: unchecked.random_rows(SITE, READ, 0)),
        ],
        "A shuffled epoch, warm": [
            Case("memory map, true permutation", lambda: from_map(epoch)),
            Case("store.shuffled", lambda: shuffled(store)),
            Case("store.shuffled, no checksums", lambda: shuffled(unchecked)),
        ],
    }


def drop(place: Path) -> None:
    """Forget the pages of a file, or of every file below a folder."""
    for path in [place] if place.is_file() else [found for found in place.rglob("*") if found.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def savings() -> str:
    """Stored bytes of real activations, per dtype, without and with the lossless codec."""
    lines = []
    for dtype in ("bfloat16", "float16"):
        model, tokenizer = load_model(dtype="bfloat16" if dtype == "bfloat16" else "float32")
        prompts = [json.loads(line) for line in RECIPE.read_text().splitlines()[:40]]
        texts = [tokenize(tokenizer, row["prompt"], row["positive"], PromptFormat()) for row in prompts]
        rows = torch.cat(capture(Anatomy.of(model), texts, [Site.parse(SITE)]).rows[Site.parse(SITE)])
        values = rows.view(torch.uint16).numpy() if dtype == "bfloat16" else rows.half().numpy()
        lines.append(f"* {dtype}, {SITE}, {len(values)} rows: {ratio(values, dtype):.2f} times smaller with `small`")
    return "\n".join(lines)


def ratio(values: np.ndarray, dtype: str) -> float:
    """Bytes of all chunks without the codec over those with it."""
    sizes = []
    for codec in ("none", "small"):
        spec = ArraySpec.of(SITE, (values.shape[1],), dtype, codec)
        place = f"memory://{uuid.uuid4().hex}"
        store = ActivationStore.create(place, Capture({}), TokenIndex.plain([len(values)]), [spec])
        with store.region_writer(store.pending_regions()[0]) as writer:
            writer.write(SITE, 0, values)
        sizes.append(store.finish().stored_bytes)
    return sizes[0] / sizes[1]


if __name__ == "__main__":
    main()
