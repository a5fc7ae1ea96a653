"""Machines whose clocks differ by seconds publish in one catalog; with more, one line says which clock to set."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
CLOCKS = """
import os, sys, time
from trimtab.store import Catalog
from trimtab.store import clocks
from trimtab.store.errors import ClockSkew
catalog = Catalog(sys.argv[1])
for i, shift in enumerate((2, 0, 1, 2, 0)):  # another machine: 2 s ahead, this one, ...
    os.environ["SHIFT"] = str(shift)
    print(catalog.publish("p", "plan", {}, {"i": i}).ref)
clocks.PATIENCE = 1.0
for shift in (400, 0, 700, -700):
    os.environ["SHIFT"] = str(shift)
    try:
        print(catalog.publish("p", "plan", {}, {"shift": shift}).ref)
    except ClockSkew as error:
        print(error)
print(catalog.versions("p"))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="shifts the clock of a process by LD_PRELOAD")
def test_clocks_that_differ(tmp_path) -> None:
    library = tmp_path / "shift.so"
    source = Path(__file__).parent / "shift.c"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    answer = subprocess.run(
        [sys.executable, "-c", CLOCKS, str(tmp_path / "catalog")],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    lines = answer.stdout.splitlines()
    assert lines[:6] == ["p@1", "p@2", "p@3", "p@4", "p@5", "p@6"], answer.stderr
    behind, ahead, far_behind, versions = lines[6:]
    assert re.search(r"last written at .* by a clock \d+ s ahead of this machine's, which says .*NTP", behind)
    for line, clock in ((ahead, "this machine's clock says"), (far_behind, "ahead of this machine's")):
        assert clock in line and "nothing was written" in line and "NTP" in line
    assert versions == "[1, 2, 3, 4, 5, 6]" and answer.stderr == ""
