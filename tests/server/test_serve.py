"""`ossia serve`: the real command in a process of its own, and what its options make of
themselves.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import warm_python
from tiny_model import environment

from ossia import heap, hub
from ossia.commands.hosted import Hosted, make
from ossia.commands.hosted.browsing import corpora
from ossia.commands.main import main, parser
from ossia.commands.options import parsed
from ossia.commands.script import read_script
from ossia.commands.server.options import Options
from ossia.commands.server.settings import is_loopback, settings_of
from ossia.errors import EngineFailed, McpError, ProcessLost, RequestError, SandboxError, ToolError
from ossia.server import ScriptedEngine, create_app
from ossia.server.access import secret_digest
from ossia.server.run import listen, serve
from ossia.server.sealing import read_secret
from ossia.server.settings import Limits
from ossia.serving import warm_up_lengths
from ossia.tokenizer import Tokenizer
from ossia.tools.browser import Browser
from ossia.tools.sandbox import best

LONG = "<|channel|>final<|message|>" + " ".join(f"word{n}" for n in range(40)) + "<|return|>"
CHAT = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.greeting = []
        for line in process.stdout:
            self.greeting.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        assert self.greeting, process.communicate()[1]
        self.url = self.greeting[0].rsplit(" ", 1)[-1]

    def ended(self) -> tuple[int, str]:
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, log


@contextmanager
def served(
    *args: str | Path,
    env: dict[str, str] | None = None,
    start: type[subprocess.Popen] = warm_python.Popen,
) -> Iterator[Served]:
    command = [sys.executable, "-m", "ossia", "serve", "--port", "0", *map(str, args)]
    environ = environment() | {"OMP_NUM_THREADS": "1"} | (env or {})
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        yield Served(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def slow(tmp_path: Path) -> tuple[str, ...]:
    """Options of a server whose answers take two seconds."""
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"text": LONG}) + "\n")
    return ("--script", str(script), "--script-delay", "15ms")


def streamed(url: str, lines: list[str], begun: Callable[[], object]) -> None:
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=CHAT | {"stream": True}, timeout=30
    ) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 10:
                begun()


def said(lines: list[str]) -> str:
    chunks = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")
    ]
    return "".join(
        c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices")
    )


# ---- a server that runs --------------------------------------------------------------------------


def test_nano_answers_and_a_signal_ends_it() -> None:
    with served("--warm-up", start=subprocess.Popen) as server:
        text = "\n".join(server.greeting)
        assert (
            server.greeting[0].startswith("ossia 0.") and "serves nano at http://127.0.0.1:" in text
        )
        assert "context 2,048" in text and "bf16" in text and "curl " in text and "keys " in text
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", json=CHAT | {"temperature": 0}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert (
            answer.json()["choices"][0]["finish_reason"] == "stop"
            and answer.json()["usage"]["total_tokens"] > 0
        )
        assert answer.headers["x-request-id"]
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "nano"
        assert (
            httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example"}).status_code
            == 403
        )
        server.process.send_signal(signal.SIGTERM)
        code, log = server.ended()
    assert code == 0 and "POST /v1/chat/completions 200 " in log and "2 + 2" not in log
    assert "Traceback" not in log and "evil" not in log


def test_a_running_stream_ends_before_the_server_does(slow: tuple[str, ...]) -> None:
    """And meanwhile nobody else is let in."""
    meanwhile: list[int] = []
    with served(*slow) as server, ThreadPoolExecutor() as pool:

        def stop() -> None:
            server.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 5
            while (
                httpx.get(f"{server.url}/ready").status_code == 200 and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            meanwhile.extend(
                (
                    httpx.get(f"{server.url}/ready").status_code,
                    httpx.get(f"{server.url}/health").status_code,
                    httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).status_code,
                )
            )

        lines: list[str] = []
        streams: list[list[str]] = [[] for _ in range(3)]
        others = [pool.submit(streamed, server.url, other, lambda: None) for other in streams]
        streamed(server.url, lines, stop)
        for other in others:
            other.result()
        code, log = server.ended()
    assert meanwhile == [503, 200, 503]
    for got in (lines, *streams):
        assert got[-2:] == ["data: [DONE]", ""] or got[-1] == "data: [DONE]", got[-3:]
        assert said(got) == LONG.removeprefix("<|channel|>final<|message|>").removesuffix(
            "<|return|>"
        )
    assert code == 0 and "Traceback" not in log and "ERROR" not in log


def test_what_takes_too_long_is_told_so(slow: tuple[str, ...]) -> None:
    with served(*slow, "--drain", "100ms") as server:
        lines: list[str] = []
        streamed(server.url, lines, lambda: server.process.send_signal(signal.SIGTERM))
        code, log = server.ended()
    errors = [line for line in lines if line.startswith('data: {"error"')]
    assert (
        len(errors) == 1
        and json.loads(errors[0].removeprefix("data: "))["error"]["type"] == "overloaded_error"
    )
    assert "word39" not in said(lines)
    assert code == 0 and "Traceback" not in log


def test_a_second_signal_ends_at_once(slow: tuple[str, ...]) -> None:
    with served(*slow, "--drain", "60s") as server:

        def interrupt() -> None:
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            server.process.send_signal(signal.SIGINT)

        with pytest.raises(httpx.HTTPError):
            streamed(server.url, [], interrupt)
        assert server.ended()[0] == 130


def truncated(path: Path) -> None:
    os.truncate(path, 0)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


@pytest.mark.slow
@pytest.mark.parametrize("change", [truncated, overwritten])
@pytest.mark.parametrize("mode", ["map", "promote", "copy"])
def test_weights_that_change_never_change_an_answer(
    tmp_path: Path, mode: str, change: Callable[[Path], None]
) -> None:
    """Copied, they do not matter. Otherwise the server ends, and names the file."""
    folder = tmp_path / "nano"
    shutil.copytree(hub.find("nano"), folder)
    weights = folder / "model.safetensors"

    def ask(url: str, question: str) -> Any:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
        return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)

    def text(answer: Any) -> str:
        return str(answer.json()["choices"][0]["message"]["content"])

    questions = [f"What is {n} + {2 * n}?" for n in range(11, 19)]
    with served(folder, "--load", mode) as server:
        right = {question: text(ask(server.url, question)) for question in questions}
        change(weights)
        for question in questions * 4:
            try:
                answer = ask(server.url, question)
            except httpx.TransportError:  # the process has ended
                break
            assert answer.status_code == 503 or text(answer) == right[question]
            assert mode != "copy" or answer.status_code == 200
        if mode == "copy":
            assert httpx.get(f"{server.url}/ready").status_code == 200
            return
        status, log = server.ended()
        assert status in (1, -signal.SIGBUS), log
        assert str(weights) in log


def test_what_is_there_at_the_start_is_no_garbage(tokenizer: Tokenizer) -> None:
    """It is not looked at again, so that garbage is soon found."""
    frozen: list[int] = []

    def started() -> None:
        frozen.append(gc.get_freeze_count())
        signal.raise_signal(signal.SIGTERM)

    before = gc.get_freeze_count()
    with listen("127.0.0.1", 0) as listening:
        ended_by = serve(create_app(ScriptedEngine([[1]]), tokenizer), listening, started)
    assert ended_by is signal.SIGTERM
    assert frozen[0] > before


@pytest.mark.parametrize("error", [ProcessLost("one of two is gone"), ValueError("a bug")])
def test_an_engine_that_fails_ends_the_server(error: Exception, tokenizer: Tokenizer) -> None:
    """By itself, or nobody would start it again. Who waits is told before."""

    class Failing(ScriptedEngine):
        def step(self) -> Any:
            if len(self.submitted) > 1:
                raise error
            return super().step()

    app = create_app(Failing([tokenizer.encode_with_specials(LONG)], delay=0.05), tokenizer)
    lines: list[str] = []
    with listen("127.0.0.1", 0) as listening, ThreadPoolExecutor(2) as clients:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def fail() -> None:
            clients.submit(httpx.post, f"{url}/v1/chat/completions", json=CHAT, timeout=30)

        with pytest.raises(EngineFailed) as caught:
            serve(app, listening, lambda: clients.submit(streamed, url, lines, fail))
    assert str(error) in str(caught.value)
    assert "engine failed" in "".join(lines[-3:])


def test_ctrl_c_drains_too(slow: tuple[str, ...]) -> None:
    with served(*slow) as server:
        lines: list[str] = []
        streamed(server.url, lines, lambda: server.process.send_signal(signal.SIGINT))
        assert "word39" in said(lines) and server.ended()[0] == 130


def test_keys_from_a_file_and_the_environment(slow: tuple[str, ...], tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("alice secret-a\n")
    with served(
        *slow, "--api-key-file", keys, env={"OSSIA_API_KEYS": "bob secret-b, carol secret-c"}
    ) as server:
        assert any("alice, bob, carol" in line for line in server.greeting)
        assert "secret-a" not in "\n".join(server.greeting)
        url = f"{server.url}/v1/models"
        assert httpx.get(url).status_code == 401
        for secret in ("secret-a", "secret-b", "secret-c"):
            assert httpx.get(url, headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_who_goes_away_makes_no_work(slow: tuple[str, ...]) -> None:
    """Streaming or not; and what was not heard to its end is a 499 in the log."""
    with served(*slow) as server:
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=CHAT | {"stream": True}
        ) as answer:
            next(answer.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/responses", json={"input": "Hi"}, timeout=0.3)
        deadline = time.monotonic() + 5
        wanted = {
            '{finished_reason="abort",model_name="nano"} 2.0',
            'num_requests_running{model_name="nano"} 0.0',
        }
        while not all(line in (text := httpx.get(f"{server.url}/metrics").text) for line in wanted):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        code, log = server.ended()
    assert code == 0 and "Traceback" not in log
    assert "POST /v1/chat/completions 499 " in log and "POST /v1/responses 499 " in log


# ---- what is refused -----------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert main(["serve", *map(str, args)]) == 2
    return capsys.readouterr().err


def test_other_machines_are_not_let_in_without_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OSSIA_API_KEYS", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        assert "--api-key-file" in refused(capsys, "--host", host)
    assert settings_of(options("--host", "0.0.0.0", "--insecure")).hosts == ()
    monkeypatch.setenv("OSSIA_API_KEYS", "secret")
    assert len(settings_of(options("--host", "0.0.0.0")).keys) == 1


def test_values_that_make_no_sense(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('{"text": "Hi"}\n{"words": 1}\n')
    short = tmp_path / "short"
    short.write_text("abc")
    assert "No such file" in refused(capsys, "--api-key-file", tmp_path / "none")
    assert "No such file" in refused(capsys, "--script", tmp_path / "none")
    assert "line 2" in refused(capsys, "--script", script)
    assert "at least 16 bytes" in refused(capsys, "--secret-file", short)
    assert "https://example.org" in refused(capsys, "--cors-origin", "example")
    assert "10.0.0.0/8" in refused(capsys, "--trusted-proxy", "proxy.example")
    assert "0 or more" in refused(capsys, "--max-connections", "-1")
    assert "more than 0" in refused(capsys, "--header-timeout", "0s")
    assert "more than 0" in refused(capsys, "--body-timeout", "0s")
    assert "neither a folder" in refused(capsys, "nowhere", "--script", script)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in refused(capsys, "--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    "args",
    [
        ["--port", "70000"], ["--port", "x"], ["--drain", "soon"], ["--drain", "-1"],
        ["--max-queue", "0"],
        ["--max-body", "many"], ["--store-ttl", "1y"], ["--default-effort", "huge"],
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", *args])
    assert end.value.code == 2 and args[0] in capsys.readouterr().err


def test_all_threads_share_a_heap(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is said first: a thread that has begun keeps its own."""
    said: list[int] = []
    monkeypatch.setattr(heap, "share", lambda: said.append(threading.active_count()))
    threads = threading.active_count()
    assert "none.jsonl" in refused(capsys, "--script", "none.jsonl")
    assert said == [threads]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert "examples:" in out and "  ossia serve" in out and max(map(len, out.splitlines())) <= 110


# ---- options to settings -------------------------------------------------------------------------


def options(*args: str | Path) -> Options:
    found: Options = parsed(parser(), ["serve", *map(str, args)])[1]
    return found


def test_options_to_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSSIA_API_KEYS", "alice secret concurrent=2")
    given = settings_of(
        options(
            "openai/gpt-oss-20b", "--max-queue", "8", "--max-body", "2MiB", "--drain", "1min",
            "--store",
            tmp_path / "s.db", "--store-ttl", "2d", "--store-bytes", "5MB", "--log-prompts",
            "--default-effort", "high",
            "--unconstrained", "--cors-origin", "*", "--strict-model-names",
        )
    )  # fmt: skip
    assert (given.model_name, given.max_queue, given.max_body, given.drain) == (
        "gpt-oss-20b",
        8,
        2 << 20,
        60,
    )
    assert (given.store_path, given.store_ttl, given.store_bytes) == (
        tmp_path / "s.db",
        2 * 86400,
        5_000_000,
    )
    kept = [settings_of(options("nano", *store)).store_bytes for store in ((), ("--store", "s.db"))]
    assert kept == [16 << 20, 1 << 30]
    assert (given.log_prompts, given.effort, given.constrained, given.cors_origins) == (
        True,
        "high",
        False,
        ("*",),
    )
    assert given.strict_model_names and given.hosts == ()
    (key,) = given.keys
    assert (key.name, key.digest, key.limits) == (
        "alice",
        secret_digest("secret"),
        Limits(concurrent=2),
    )


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSSIA_API_KEYS", raising=False)
    given = settings_of(options())
    assert (
        given.model_name == "nano"
        and given.constrained
        and given.keys == ()
        and "localhost" in given.hosts
    )
    assert (
        given.secret is None
        and given.store_path is None
        and not given.log_prompts
        and given.cors_origins == ()
    )


def test_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OSSIA_API_KEYS", raising=False)
    asked = ("--tools", "python,browser")
    assert settings_of(options(*asked)).limits == Limits()
    strangers = settings_of(options(*asked, "--host", "0.0.0.0", "--insecure"))
    assert strangers.limits == Limits(tools=frozenset({"browser"}))
    assert settings_of(options("--citations", "marks")).citations == "marks"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--tools", "pyhton"], "--tools pyhton: there is no such tool"),
        (["--corpus", "notes"], "--corpus is of the tool browser"),
        (["--tools", "python", "--searx", "http://s"], "--searx is of the tool browser"),
        (["--search", "exa"], "--search is of the tool browser"),
        (["--tools", "browser", "--corpus", "a=x", "--corpus", "a=y"], "a source 'a' already"),
        (["--tools", "browser", "--corpus", "exa=x"], "--corpus NAME=x"),
        (["--tools", "browser", "--corpus", "a b=x"], "'a b' is no name"),
        (["--tools", "browser", "--containers", "c"], "--containers is of the tool python"),
        (["--python-unsafe"], "--python-unsafe is of the tool python"),
        (["--python-mcp", "http://x"], "--python-mcp is of the tool python"),
        (
            ["--tools", "python,shell", "--python-mcp", "http://x"],
            "--tools shell is for code that runs here",
        ),
        (
            ["--tools", "python", "--python-unsafe", "--host", "0.0.0.0", "--insecure"],
            "--python-unsafe lets whoever asks change this machine",
        ),
    ],
)
def test_options_of_tools_that_make_no_sense(args: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        settings_of(options(*args))


def test_tools_that_do_not_work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="nowhere"):
        make(Hosted(tools="browser", corpus=(str(tmp_path / "nowhere"),)))
    monkeypatch.delenv("EXA_API_KEY", raising=False)
    with pytest.raises(ToolError, match="set EXA_API_KEY"):
        make(Hosted(tools="browser", search=("exa",)))
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ToolError, match=re.escape("pip install 'ossia[tools]'")):
        make(Hosted(tools="browser"))
    monkeypatch.setattr(best, "find", lambda executable: best.Found(None, (("bubblewrap", "no"),)))
    with pytest.raises(SandboxError, match="--python-unsafe"):
        make(Hosted(tools="python"))


def test_the_greeting_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n")
    made = make(Hosted(tools="browser,python", corpus=(str(tmp_path),), python_unsafe=True))
    assert [tool.namespace.name for tool in made.tools] == ["browser", "python"]
    assert made.containers is not None
    assert made.about[0] == f"browser: searches {tmp_path.stem} ({tmp_path})"
    assert made.about[1].startswith("python: in unsafe")
    made = make(Hosted(tools="shell,python", python_unsafe=True, mcp_any=True))
    assert [tool.kind.name for tool in made.tools] == ["python", "shell"]
    assert made.about[0].startswith("shell and python: in unsafe")
    assert made.about[1] == "mcp: any server on the public internet that a request names"


def test_what_the_browser_may_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpora first, then the web, each under the name that a request chooses it by."""
    (tmp_path / "a.md").write_text("# A\n")
    monkeypatch.setenv("EXA_API_KEY", "secret")
    monkeypatch.setenv("YDC_API_KEY", "secret")
    searches = ("--search", "none", "--search", "exa", "--search", "you", "--search", "exa")
    given = options(
        *("--tools", "browser", "--corpus", f"law={tmp_path}", "--corpus", str(tmp_path)),
        *("--searx", "http://searx.example", *searches),
    )
    settings_of(given)
    made = make(given.hosted)
    (browser,) = made.tools
    assert isinstance(browser, Browser)
    found = {name: type(each).__name__ for name, each in browser.sources.items()}
    own = tmp_path.stem
    assert found == {"law": "Corpus", own: "Corpus", "searx": "Searx", "none": "PlainWeb",
                     "exa": "Exa", "you": "YouCom"}  # fmt: skip
    assert list(found)[:2] == ["law", own] and browser.backend is browser.sources["law"]
    assert made.about == [
        f"browser: searches law ({tmp_path}), {own} ({tmp_path}), searx (http://searx.example), "
        "none (nothing: it opens URLs), exa (the web, with Exa), you (the web, with You.com)"
    ]
    assert "secret" not in made.about[0]


def test_names_of_corpora() -> None:
    given = ("law=l/x", "./a=b", "notes.jsonl", "my notes/", "/")
    assert corpora(given) == {
        "law": "l/x",
        "a-b": "./a=b",
        "notes": "notes.jsonl",
        "my-notes": "my notes/",
        "corpus": "/",
    }


def test_mcp_servers_are_connected_to_at_start(tmp_path: Path) -> None:
    """One that cannot be is said then, and the others are let go."""
    pytest.importorskip("mcp")
    stranger = Path(__file__).parents[1] / "tools" / "mcp" / "stranger.py"
    servers = {
        "my-team": {
            "command": sys.executable,
            "args": ["-S", str(stranger), "plain", str(tmp_path / "starts")],
        }
    }
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    made = make(Hosted(mcp=str(file)))
    assert made.mcp is not None and made.about == ["mcp:my_team: 2 tools"]
    asyncio.run(made.mcp.close())
    servers["gone"] = {"command": "/no/such/program"}
    file.write_text(json.dumps({"mcpServers": servers}))
    with pytest.raises(McpError, match="gone: /no/such/program"):
        make(Hosted(mcp=str(file)))
    with pytest.raises(McpError, match="cannot be read"):
        make(Hosted(mcp=str(tmp_path / "nowhere.json")))


def test_a_secret_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    first = read_secret(file)
    assert len(first) >= 32 and read_secret(file) == first != read_secret(tmp_path / "other")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.org", False),
        ("", False),
    ],
)  # fmt: skip
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_scripts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "script.jsonl"
    file.write_text('{"text": "<|channel|>final<|message|>Hi<|return|>"}\n\n{"ids": [1, 2]}\n')
    first, second = read_script(file, tokenizer)
    assert first == tokenizer.encode_with_specials(
        "<|channel|>final<|message|>Hi<|return|>"
    ) and second == [1, 2]
    lines: list[Any] = [
        "{",
        "[]",
        {},
        {"text": ""},
        {"text": 1},
        {"ids": []},
        {"ids": [True]},
        {"ids": [-1]},
    ]
    lines += [{"text": "a", "ids": [1]}, {"text": "a", "other": 1}]
    for line in lines:
        file.write_text(line if isinstance(line, str) else json.dumps(line))
        with pytest.raises(RequestError, match="line 1"):
            read_script(file, tokenizer)
    file.write_text("\n")
    with pytest.raises(RequestError, match="nothing"):
        read_script(file, tokenizer)


def test_a_gpu_is_warmed_up_for_prompts_of_every_size() -> None:
    """Each tile of its kernels is compiled; a CPU's kernels are there."""
    assert warm_up_lengths("cpu", 1024) == [1]
    assert warm_up_lengths("cuda", 1024) == [1, 4, 16, 64, 256, 1024]
