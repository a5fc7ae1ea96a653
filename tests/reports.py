"""What tests read out of a report's page."""

import html
import re
import shlex
from pathlib import Path


def command_in(report: str | Path) -> list[str]:
    """The arguments of the command under "To reproduce", without the program's name."""
    shown = re.search(r'<pre id="command">(.*?)</pre>', Path(report).read_text(), re.DOTALL)
    assert shown, f"{report} tells no command"
    program, *arguments = shlex.split(html.unescape(shown[1]))
    assert program == "trimtab"
    return arguments
