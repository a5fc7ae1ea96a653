"""Signals end the program within seconds: one line, no process left, whatever the main thread and the workers do.

Real processes, without the heavy libraries: the command is replaced by one that starts workers and will not stop.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.flows.stopping import LINE

PROGRAM = """
import concurrent.futures, multiprocessing, pathlib, signal, subprocess, sys, time
from trimtab.flows import cli
from trimtab.tasks.jobs.processes import end_with_parent, without_interrupts

def stubborn(folder):
    server = subprocess.Popen(["sleep", "600"])  # a worker's own child, as an embedded Prefect server is
    pathlib.Path(folder, f"{server.pid}.started").touch()
    while True:
        time.sleep(1)

def main():
    pool = concurrent.futures.ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), initializer=end_with_parent)
    with without_interrupts():
        shares = [pool.submit(stubborn, sys.argv[1]) for _ in range(2)]
    while True:
        try:
            shares[0].result()
        except KeyboardInterrupt:
            sys.stderr.write("Traceback: nobody should see this\\n")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background ignore it
    cli.main = main
    cli.console()
"""


@pytest.fixture
def program(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    yield process
    if alive(process.pid):
        os.killpg(process.pid, signal.SIGKILL)


def alive(session: int) -> list[str]:
    """Processes of this session that are not just waiting to be reaped."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return [parent for state, parent, _, here, *_ in fields if int(here) == session and state != "Z"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "number, to_all, status, said",
    [
        (signal.SIGINT, True, 130, [LINE]),
        (signal.SIGTERM, False, 143, [LINE]),
        (signal.SIGKILL, False, -9, []),
    ],
    ids=["ctrl-c", "term", "kill"],
)
def test_one_line_and_nothing_left_within_five_seconds(program, number, to_all, status, said):
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(program.pid, number)
    while alive(program.pid) and time.monotonic() - began < 10:
        time.sleep(0.05)
    took = time.monotonic() - began
    assert not alive(program.pid) and took < 5, f"{alive(program.pid)} after {took:.1f} s"
    lines = program.stderr.read().splitlines()
    assert program.wait() == status
    assert [line for line in lines if "resource_tracker" not in line and "warnings.warn" not in line] == said
