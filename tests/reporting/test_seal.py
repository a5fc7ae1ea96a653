"""Pages on disk: written whole or not at all, and sealed."""

from pathlib import Path

import pytest
from verdicts import PROVENANCE, verdict

from trimtab.tasks.reporting.seal import sealed, sealed_pages, write_page
from trimtab.tasks.reporting.verdict_page import verdict_page


def test_written_beside_and_renamed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    assert write_page(verdict_page(verdict().to_json(), PROVENANCE), path) == path
    before = path.read_text(encoding="utf-8")
    assert before == sealed(verdict_page(verdict().to_json(), PROVENANCE))
    with pytest.raises(AttributeError):
        write_page(None, path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert list(sealed_pages(path.parent)) == [(path, True)]
    raw = path.read_bytes()
    other = b"1" if raw[-9:-8] == b"0" else b"0"  # than the last digit of the seal
    for damaged in (raw.replace(b"<body", b"<bodY", 1), raw[:-9] + other + raw[-8:], raw[:3] + b"\xff" + raw[4:]):
        path.write_bytes(damaged)
        assert list(sealed_pages(path.parent)) == [(path, False)]
