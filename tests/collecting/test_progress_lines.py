"""Progress without a terminal: a line at the start, then every half minute, with rate and time left."""

from trimtab.flows.commands import _progress
from trimtab.flows.commands._progress import _Lines, shown_progress
from trimtab.tasks.progress import report, say


def test_lines(capsys):
    now = [100.0]
    lines = _Lines(lambda: now[0])
    for seconds, done in ((0, 20), (10, 30), (31, 51), (40, 60), (62, 82), (95, 120)):
        now[0] = 100.0 + seconds
        lines("capturing", done, 120)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "capturing (120)",
        "capturing: 51 of 120, 1/s, 0:01:09 left",
        "capturing: 82 of 120, 1/s, 0:00:38 left",
        "capturing: 120 of 120, 1.05/s, 0:00:00 left",
    ]


def test_what_stages_say_is_shown_escaped_unless_nothing_is(capsys, monkeypatch):
    monkeypatch.setattr(_progress, "require_reachable", lambda: None)
    with shown_progress(quiet=False):
        report("judging", 1, 2)
        say("> hello\x1b[2J")
    with shown_progress(quiet=True):
        say("quiet")
    said = capsys.readouterr().err
    assert said.startswith("judging (2)\n> hello") and "\x1b" not in said and "quiet" not in said
