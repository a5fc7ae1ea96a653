"""What was acknowledged is on the disk: every file that the newest snapshot needs was flushed before."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trimtab.store import ActivationStore, Catalog


class Disk:
    """Which files were flushed, by inode and time of their last change: the real fsync, watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait_for_the_disk: Callable[[int], None]) -> None:
        self.flushed: set[tuple[int, int]] = set()

        def fsync(handle: int) -> None:
            wait_for_the_disk(handle)
            state = os.fstat(handle)
            self.flushed.add((state.st_ino, state.st_mtime_ns))

        monkeypatch.setattr(os, "fsync", fsync)

    def lost(self, root: Path) -> list[str]:
        """Files and folders that a power cut may take away or empty."""
        here = [root.parent, root, *root.rglob("*")]
        states = [(path, path.stat()) for path in here if not path.name.startswith(".")]
        return [str(path) for path, state in states if (state.st_ino, state.st_mtime_ns) not in self.flushed]


def test_everything_acknowledged_was_flushed(samples, tmp_path, monkeypatch, wait_for_the_disk) -> None:
    """Publishing, moving an alias, deleting; and a capture once it is finished."""
    disk, root = Disk(monkeypatch, wait_for_the_disk), tmp_path / "home"
    root.mkdir()
    catalog = Catalog(root / "catalog")
    for number in range(3):
        catalog.publish("p", "plan", {"x": np.arange(2000.0) + number}, {"n": number})
        assert disk.lost(root / "catalog") == []
    catalog.promote("p@2", "prod")
    assert disk.lost(root / "catalog") == []
    catalog.delete("p@1")
    assert disk.lost(root / "catalog") == []
    sample = samples(0, 10)
    sample.collect(root / "capture")
    assert disk.lost(root / "capture") == [] and ActivationStore.open(root / "capture").complete


def test_a_publish_flushes_what_it_wrote_and_not_all_there_is(tmp_path, monkeypatch, wait_for_the_disk) -> None:
    catalog = Catalog(tmp_path / "catalog")
    for number in range(12):
        catalog.publish("p", "plan", {"x": np.arange(2000.0) + number}, {"n": number})
        time.sleep(0.01)  # file systems' clocks tick every few milliseconds
    disk = Disk(monkeypatch, wait_for_the_disk)
    catalog.publish("p", "plan", {"x": np.arange(2000.0)}, {"n": 12})
    assert 0 < len(disk.flushed) < 25, "new files, the folders, and what the publish before may have written last"
