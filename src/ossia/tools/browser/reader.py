"""HTML on stdin, JSON of its title, text and links on stdout: a program, run confined.

The parser is C code that reads what strangers wrote, and a page of one tag with a million
attributes keeps it busy for hours: so each page has a process of its own. Its argument is the
page's URL. The packages above this folder are stood in for, because importing them takes longer
than most pages.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path


def main() -> None:
    here = Path(__file__).parent
    names = ("ossia", "ossia.tools", "ossia.tools.browser")
    for name, folder in zip(names, (here.parents[1], here.parent, here), strict=True):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    from ossia.tools.browser.html import read_html

    html = sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        page = read_html(html, sys.argv[1])
    except MemoryError:
        sys.exit("it takes too much memory")
    written = json.dumps([page.title, page.text, page.links])
    sys.stdout.write(written)


if __name__ == "__main__":
    main()
