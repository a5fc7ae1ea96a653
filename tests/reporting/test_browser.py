"""The page in a browser: its script runs, and the console is silent."""

import shutil
import subprocess
from pathlib import Path

import pytest
from reports import Page
from verdicts import ATTACK, PROVENANCE, SECTIONS, bare, verdict

from trimtab.tasks.reporting.seal import write_page
from trimtab.tasks.reporting.verdict_page import verdict_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
def test_in_a_browser(tmp_path: Path, full: bool) -> None:
    """The DOM that a browser builds has every section, the script ran, and the console is silent."""
    data = verdict().to_json() if full else bare()
    data["sentence"] = ATTACK
    path = write_page(verdict_page(data, PROVENANCE if full else {}), tmp_path / "report.html")
    done = browse(path, tmp_path / "profile")
    page = Page(done.stdout)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert "tip" in page.ids, "the page's own script did not run: is its hash in the policy?"
    assert "img" not in page.tags
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console and "Uncaught" not in done.stderr, console


def browse(path: Path, profile: Path) -> "subprocess.CompletedProcess[str]":
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        *quiet.split(),
        "--disable-sync",
        f"--user-data-dir={profile}",
    ]
    command += ["--enable-logging=stderr", "--v=0", "--dump-dom", path.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
