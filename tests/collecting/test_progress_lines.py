"""Progress without a terminal: a line at the start, then every half minute, with rate and time left."""

from trimtab.flows.commands._progress import _Lines


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
