"""Small captures for the store's tests, as fixtures (test files cannot import each other)."""

import multiprocessing
import runpy
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore, ArraySpec, Capture, Catalog, Location, Region, TokenIndex

SPECS = (
    ArraySpec("resid_post.1", (8,), ("d_model",), "float16", chunk_rows=7),
    ArraySpec("resid_post.2", (8,), ("d_model",), "float32", chunk_rows=13),
    ArraySpec("z.1", (3, 4), ("head", "d_head"), "bfloat16", chunk_rows=11, codec="small"),
)


@dataclass(frozen=True)
class Sample:
    """A capture's parts and the rows that belong into it; z.1 is given as bfloat16 bits."""

    capture: Capture
    index: TokenIndex
    specs: tuple[ArraySpec, ...]
    rows: dict[str, np.ndarray]
    region_bytes: int = 1500

    def create(self, location: object) -> ActivationStore:
        return ActivationStore.create(location, self.capture, self.index, self.specs, self.region_bytes)

    def fill(self, writer: object, region: Region) -> None:
        """Every site of one region, in ragged pieces."""
        for site, rows in self.rows.items():
            for prompt in range(region.prompt_start, region.prompt_stop):
                start, stop = self.index.offsets[prompt : prompt + 2]
                writer.write(site, int(start), rows[start:stop])

    def collect(self, location: object) -> ActivationStore:
        """Make, write and finish it, one region after the other."""
        store = self.create(location)
        for region in store.pending_regions():
            with store.region_writer(region) as writer:
                self.fill(writer, region)
        return store.finish()


def make_sample(seed: int = 0, prompts: int = 40) -> Sample:
    """Ragged prompts in pairs (+1, -1), two splits, the first token of each special."""
    rng = np.random.default_rng(seed)
    plain = TokenIndex.plain(rng.integers(2, 9, prompts))
    n = plain.n_rows
    index = replace(
        plain,
        token_id=rng.integers(0, 99, n),
        role=rng.integers(0, 5, n),
        special=plain.position == 0,
        label=np.where(np.arange(prompts) % 2 == 0, 1, -1),
        pair=np.arange(prompts) // 2,
        split=np.where(np.arange(prompts) < prompts // 2, "fit", "report"),
    )
    rows = {
        "resid_post.1": rng.normal(size=(n, 8)).astype(np.float32),
        "resid_post.2": rng.normal(size=(n, 8)).astype(np.float32),
        "z.1": rng.integers(0, 0x7F80, (n, 3, 4)).astype(np.uint16),
    }
    capture = Capture({"model": {"name": "tiny", "revision": "a"}, "prompts": f"digest-{seed}", "span": "all"})
    return Sample(capture, index, SPECS, rows)


@pytest.fixture(scope="session")
def sample() -> Sample:
    return make_sample()


@pytest.fixture(scope="session")
def memory() -> Callable[[], str]:
    """New places in memory."""
    return lambda: f"memory://{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def store(sample: Sample, memory: Callable[[], str]) -> ActivationStore:
    """A finished capture in memory."""
    return sample.collect(memory())


@pytest.fixture(params=["memory", "folder"])
def catalog(request: pytest.FixtureRequest, tmp_path) -> Catalog:  # type: ignore[no-untyped-def]
    return Catalog(f"memory://{uuid.uuid4().hex}" if request.param == "memory" else tmp_path / "catalog")


@pytest.fixture(scope="session")
def meanwhile() -> Callable[[Callable[[], object]], AbstractContextManager[list]]:
    """`with meanwhile(deed):` the deed is done once, after the look-ups of the next transaction and before its commit,
    as can happen where no lock keeps two apart. What it gives is empty once that has happened."""
    return _meanwhile


@contextmanager
def _meanwhile(deed: Callable[[], object]) -> Iterator[list]:
    commit, waiting = Location.commit, [deed]

    def interrupted(self: Location, *arguments: object, **named: object) -> str:
        if waiting:
            waiting.pop()()
        return commit(self, *arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "commit", interrupted)
        yield waiting


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """A local S3 (moto), addressed by the usual environment variables."""
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]' to test S3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
    yield "s3://bucket"
    server.stop()


@pytest.fixture
def samples() -> Callable[[int, int], Sample]:
    """make_sample(seed, prompts)."""
    return make_sample


@pytest.fixture(scope="session")
def forkserver() -> multiprocessing.context.ForkServerContext:
    """Processes that begin with everything imported (10 ms instead of 2 s), and with no thread of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trimtab.store.captures.activations", "trimtab.store.catalog.catalog", "pytest"])
    return context


@pytest.fixture
def worker(forkserver) -> Iterator[Callable]:  # type: ignore[no-untyped-def]
    """worker(job, *arguments): start workers.py in a new process; what still runs at the end is killed."""
    jobs = []

    def start(*job: object) -> multiprocessing.Process:
        script = str(Path(__file__).parent / "workers.py")
        # by path: test files are not importable by name in every way of calling pytest
        jobs.append(forkserver.Process(target=runpy.run_path, args=(script, {"JOB": job})))
        jobs[-1].start()
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.join()
