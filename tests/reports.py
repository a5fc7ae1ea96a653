"""What tests read out of a report's page."""

import html
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path


def command_in(report: str | Path) -> list[str]:
    """The arguments of the command under "To reproduce", without the program's name."""
    shown = re.search(r'<pre id="command">(.*?)</pre>', Path(report).read_text(), re.DOTALL)
    assert shown, f"{report} tells no command"
    program, *arguments = shlex.split(html.unescape(shown[1]))
    assert program == "trimtab"
    return arguments


class Page(HTMLParser):
    """What a browser would build, as far as the tests care: ids, addresses, script bodies, text, tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and self.scripts[-1:] == [""]:
            self.scripts[-1] = data
        else:
            self.text.append(data)
