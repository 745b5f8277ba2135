"""What a tool costs before and beside the model: a session's start, a call, a page, a patch; ours
beside ipykernel and the official tools of gpt-oss.

    python bench/tools.py [--rounds 7] [--peers PYTHON] [--official FOLDER]

`--peers`: the interpreter of an environment of its own with ipykernel, jupyter_client and, for the
official tools, aiohttp, html2text, lxml, pydantic and tiktoken. `--official`: the folder
gpt_oss/tools of openai/gpt-oss. Without them only our side is measured.

A session is started until its first cell has answered, in our sandbox; ipykernel runs without one.
A call is `n = 1`, in a session that has run before. A page is HTML of 400 links and 200 paragraphs
made into text. A patch changes a line of a file of 400; ours is written to the disk and synced, the
official one writes without. Sides take turns, round by round; printed are medians of wall time in
milliseconds, their ratio, and its smallest and largest value in a round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ossia.commands.machine import cpu_name
from ossia.tools import ApplyPatch, Python, SessionKey, Sessions
from ossia.tools.browser.html import read_html
from ossia.tools.sandbox import find

CALLS = 200
PAGES = 20
PATCHES = 40
URL = "https://example.org/list.html"
ROWS = ("session start", "call", "page", "patch")
PEER_KERNEL = """
import json, sys, time
from jupyter_client import KernelManager

def cell(client, text):
    request = client.execute(text)
    while client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != request:
        pass

began = time.perf_counter()
manager = KernelManager()
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
cell(client, "n = 1")
started = time.perf_counter() - began
times = []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    cell(client, "n = 1")
    times.append(time.perf_counter() - began)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(json.dumps([started, sorted(times)[len(times) // 2]]))
"""
PEER_TOOLS = (
    """
import importlib.util, json, os, sys, time

def module(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made

tools, html, folder, patches = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
pages = module(tools + "/simple_browser/page_contents.py")
patcher = module(tools + "/apply_patch.py")
text = open(html).read()
os.chdir(folder)

def median(count, work):
    times = []
    for n in range(count):
        began = time.perf_counter()
        work(n)
        times.append(time.perf_counter() - began)
    return sorted(times)[count // 2]

page = median(PAGES, lambda n: pages.process_html(text, "URL", None))
patch = median(
    PATCHES,
    lambda n: patcher.apply_patch(
        patches[n % 2], patcher.open_file, patcher.write_file, patcher.remove_file
    ),
)
print(json.dumps([page, patch]))
""".replace("PAGES", str(PAGES))
    .replace("PATCHES", str(PATCHES))
    .replace("URL", URL)
)


def median_of(count: int, work: Callable[[int], object]) -> float:
    """Seconds."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def page() -> str:
    parts = [f'<p>Entry {n}: <a href="/a/{n}">first</a>, <a href="/b/{n}">second</a> and words '
             f"that go on for a line or two, as they do.</p>" for n in range(200)]  # fmt: skip
    return f"<html><head><title>List</title></head><body>{''.join(parts)}</body></html>"


def patch(old: str, new: str) -> str:
    body = f"@@\n line 199\n-{old}\n+{new}\n line 201"
    return f"*** Begin Patch\n*** Update File: file.txt\n{body}\n*** End Patch"


def write_file(folder: Path) -> tuple[str, str]:
    """The file to patch, and the patches that change it there and back."""
    lines = [f"line {n}" for n in range(400)]
    (folder / "file.txt").write_text("\n".join(lines) + "\n")
    return patch("line 200", "changed"), patch("changed", "line 200")


def kernel_times() -> tuple[float, float]:
    tool = Python(rung=find().rung)
    sessions = Sessions(SessionKey("bench", "one"))

    def call(number: int) -> None:
        (result,) = sessions.call_all([(tool, "", "n = 1")])
        assert not result.failed, result.text

    start = median_of(1, call)
    each = median_of(CALLS, call)
    tool.close()
    return start, each


def our_times(folder: Path, html: str) -> list[float]:
    patches = write_file(folder)
    patcher = ApplyPatch(folder)
    sessions = Sessions(SessionKey())

    def apply(number: int) -> None:
        (result,) = sessions.call_all([(patcher, "apply_patch", patches[number % 2])])
        assert not result.failed, result.text

    start, call = kernel_times()
    each_page = median_of(PAGES, lambda _: read_html(html, URL))
    return [start, call, each_page, median_of(PATCHES, apply)]


def peer_times(folder: Path, html: str, python: str, official: str | None) -> list[float | None]:
    """Of ipykernel, and of the official tools if they are there."""
    times: list[float | None] = list(_asked(python, PEER_KERNEL, str(CALLS)))
    if official is None:
        return [*times, None, None]
    patches = json.dumps(write_file(folder))
    file = folder / "page.html"
    file.write_text(html)
    official = str(Path(official).resolve())
    return times + _asked(python, PEER_TOOLS, official, str(file), str(folder), patches)


def _asked(python: str, program: str, *words: str) -> list[float]:
    run = subprocess.run([python, "-c", program, *words], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{python}: {run.stderr.strip()[-500:]}")
    times: list[float] = json.loads(run.stdout)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--official", metavar="FOLDER")
    asked = parser.parse_args()
    rung = find().rung
    if rung is None:
        sys.exit(find().described)
    html = page()
    ours, theirs = [], []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            ours.append(our_times(Path(name), html))
            if asked.peers:
                theirs.append(peer_times(Path(name), html, asked.peers, asked.official))
    print(f"{cpu_name()}, Python {platform.python_version()}, sandbox {rung.name}")
    print(f"{'ms':14} {'ours':>9} {'peer':>9}  peer : ours")
    for n, row in enumerate(ROWS):
        mine = [times[n] for times in ours]
        pairs = [(times[n], other[n]) for times, other in zip(ours, theirs, strict=False)]
        print(_line(row, mine, [(a, b) for a, b in pairs if b is not None]))


def _line(row: str, ours: list[float], pairs: list[tuple[float, float]]) -> str:
    text = f"{row:14} {1000 * statistics.median(ours):9.2f}"
    if not pairs:
        return text
    ratios = [theirs / mine for mine, theirs in pairs]
    peer = 1000 * statistics.median(theirs for _, theirs in pairs)
    spread = f"({min(ratios):.1f} to {max(ratios):.1f})"
    return f"{text} {peer:9.2f}  {statistics.median(ratios):.1f} {spread}"


if __name__ == "__main__":
    main()
