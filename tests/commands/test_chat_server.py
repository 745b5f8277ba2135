"""`ossia chat --server`: what is asked of a server, what is shown of its answer, and what goes
wrong meanwhile.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tiny_model import environment

from ossia.commands.main import main
from ossia.commands.terminal import Presses, Screen, Session, carry_out, remote, slash
from ossia.commands.terminal.remote import Server
from ossia.errors import RequestError
from ossia.harmony import Conversation, Effort

INTERRUPT = "Ctrl-C comes, and the server is silent"


def ask(text: str, talk: Session, screen: Screen) -> None:
    with Presses() as presses:
        carry_out(text, talk, screen, presses)


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
ANSWER = [
    delta(role="assistant"),
    delta(reasoning="Hm", reasoning_content="Hm"),
    delta(reasoning_content="."),
    delta(content="8"),
    delta(content="5"),
    delta("stop"),
    USAGE,
]


class Fake:
    """A server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[Any] = []  # a list of chunks, or (status, type, text)
        self.models: Any = {"data": [{"id": "first"}, {"id": "second"}]}
        self.over = threading.Event()
        self.shown: Callable[[], bool] = lambda: True  # what Ctrl-C waits for
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                fake.keys.append(self.headers["Authorization"])
                self.whole(200, "application/json", json.dumps(fake.models))

            def do_POST(self) -> None:
                fake.keys.append(self.headers["Authorization"])
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.asked.append(json.loads(body) | {"path": self.path})
                answer = fake.answers.pop(0)
                if isinstance(answer, tuple):
                    self.whole(*answer)
                else:
                    self.stream(answer)

            def whole(self, status: int, kind: str, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                if status == 307:
                    self.send_header("Location", fake.url + "/stolen")
                self.end_headers()
                self.wfile.write(text.encode())

            def stream(self, chunks: list[Any]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.end_headers()
                for chunk in chunks:
                    if chunk == INTERRUPT:
                        while not fake.shown():
                            time.sleep(0.002)
                        os.kill(os.getpid(), signal.SIGINT)
                        fake.over.wait(60)
                        return
                    text = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}"
                    self.wfile.write(f"{text}\n\n".encode())
                    self.wfile.flush()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    for name in ("OSSIA_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Fake()
    yield made
    made.over.set()
    made.server.shutdown()
    made.server.server_close()


def chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    code = main(["chat", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def session(fake: Fake, **more: Any) -> tuple[Session, Screen, io.StringIO]:
    out = io.StringIO()
    server = Server.at(fake.url, None, None)
    made = Session(server, None, None, None, (), {}, name="first", load=server.with_model, **more)
    return made, Screen(out, styled=False), out


def test_a_conversation_through_a_pipe(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = [ANSWER, [": a comment", *ANSWER, "data: [DONE]"]]
    code, out, err = chat(monkeypatch, capsys, "37 + 48?\nagain\n", "--server", fake.url)
    assert (code, err) == (0, "") and out == "thinking: Hm.\n85\n\nthinking: Hm.\n85\n"
    first, second = fake.asked
    assert first == {
        "path": "/v1/chat/completions",
        "model": "first",
        "messages": [{"role": "user", "content": "37 + 48?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert [m["content"] for m in second["messages"]] == ["37 + 48?", "85", "again"]
    assert fake.keys == [None, None, None]


def test_what_is_given_goes_with_the_request(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = [ANSWER, ANSWER, ANSWER]
    words = ["other", "--server", f"{fake.url}/v1/", "--api-key", "given", "--effort", "high"]
    words += ["--temperature", "0", "--max-tokens", "9", "--instructions", "Be kind."]
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    code, out, _ = chat(monkeypatch, capsys, "Hi\n", *words, "--hide-reasoning")
    assert code == 0 and out == "85\n"
    (asked,) = fake.asked
    assert asked["messages"][0] == {"role": "system", "content": "Be kind."}
    wanted = {"model": "other", "reasoning_effort": "high", "temperature": 0.0, "max_tokens": 9}
    assert asked.items() >= wanted.items() and fake.keys == ["Bearer given"]
    address = fake.url.removeprefix("http://")
    chat(monkeypatch, capsys, "Hi\n", "m", "--server", address)
    monkeypatch.setenv("OSSIA_API_KEY", "ours")
    chat(monkeypatch, capsys, "Hi\n", "m", "--server", address)
    assert fake.keys[1:] == ["Bearer theirs", "Bearer ours"]


def test_a_server_that_does_not_stream(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = {"role": "assistant", "content": "85", "reasoning_content": "Hm."}
    whole = {"choices": [{"message": message, "finish_reason": "length"}]}
    fake.answers = [(200, "application/json", json.dumps(whole))]
    code, out, err = chat(monkeypatch, capsys, "Hi\n", "--server", fake.url)
    assert code == 0 and out == "thinking: Hm.\n85\n" and "the tokens ran out" in err


def error(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "code": code}})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            (401, "application/json", error("No key.")),
            "401 Unauthorized: No key.; give --api-key, or OSSIA_API_KEY",
        ),
        ((400, "application/json", error("Too\x1b[2J hot.")), "400 Bad Request: Too\ufffd[2J hot."),
        ((500, "application/json", '{"detail": "broken"}'), "500 Internal Server Error: broken"),
        ((503, "text/plain", "overloaded"), "503 Service Unavailable: overloaded"),
        (
            (404, "text/html", "<html>"),
            "does not speak OpenAI's API there; give the URL that ends in /v1",
        ),
        ((307, "text/plain", ""), "307 it redirects to http://127.0.0.1"),
        ((302, "text/plain", "moved"), "302 Found: moved\n"),
        ((200, "text/html", "<html>"), "broke off before the end"),
        ((200, "application/json", "[]"), "sends what is not OpenAI's API; is the URL right?"),
        ((200, "application/json", error("Overloaded.")), "Overloaded."),
        ([delta(content="8"), {"error": {"message": "Out of memory."}}], "Out of memory."),
        ([delta(content="8"), {"error": "Gone."}], "Gone."),
        ([delta(content="8"), "data: {"], "sends what is not OpenAI's API"),
        ([delta(content="8")], "broke off before the end of its answer"),
        ([], "broke off before the end of its answer"),
    ],
)
def test_errors_are_said_plainly(
    answer: Any,
    said: str,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.answers = [answer]
    code, _, err = chat(monkeypatch, capsys, "Hi\n", "m", "--server", fake.url)
    assert code == 2 and err.startswith(f"ossia: {fake.url}/v1: ") and said in err
    assert err.count("\n") == 1 and len(fake.asked) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--server", "http://127.0.0.1:9"], "cannot be reached: Connection refused"),
        (["--server", "ftp://host"], "is not a server's URL, such as"),
        (["--server", "http://host:port"], "is not a server's URL"),
        (["--server", "http://"], "is not a server's URL"),
        (["--server", "URL", "--calculator"], "leave out --calculator"),
        (["--server", "URL", "--dtype", "float32"], "options under `computing`"),
        (["--api-key", "k"], "--api-key is for a server"),
        (["m", "--server", "URL", "--api-key", "two\nlines"], "set OSSIA_API_KEY to the key alone"),
    ],
)
def test_what_cannot_be_asked(
    words: list[str],
    said: str,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [fake.url if word == "URL" else word for word in words]
    code, _, err = chat(monkeypatch, capsys, "Hi\n", *words)
    assert code == 2 and said in err and not fake.asked


@pytest.mark.parametrize("models", [{"data": []}, {}, [], {"data": "no"}])
def test_a_server_without_models_asks_for_a_name(models: Any, fake: Fake) -> None:
    fake.models = models
    with pytest.raises(RequestError, match=r"names no model|no list of models|not OpenAI's API"):
        Server.at(fake.url, None, None)
    assert Server.at(fake.url, None, "mine").with_model("other").model == "other"


def test_ctrl_c_stops_an_answer_and_also_a_silent_server(fake: Fake) -> None:
    talk, screen, out = session(fake)
    fake.answers = [
        [delta(content="It is"), INTERRUPT],
        [delta(reasoning="Hm"), INTERRUPT],
        [INTERRUPT],
        ANSWER,
    ]
    for text, shown in (("first", "It is"), ("second", "Hm"), ("third", ""), ("fourth", "")):
        fake.shown = lambda shown=shown: shown in out.getvalue()  # type: ignore[misc]
        ask(text, talk, screen)
    assert "It is\nstopped; the answer stays in the conversation as far as it got" in out.getvalue()
    assert out.getvalue().count("stopped before an answer began; the question is forgotten") == 2
    assert [m["content"] for m in fake.asked[3]["messages"]] == ["first", "It is", "fourth"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "[7 tokens in" in out.getvalue()


def test_an_error_keeps_the_question_for_retry(fake: Fake) -> None:
    talk, screen, out = session(fake)
    full = (400, "application/json", error("maximum context length", "context_length_exceeded"))
    fake.answers = [(503, "text/plain", "busy"), full]
    ask("first", talk, screen)
    assert "busy; /retry asks again" in out.getvalue() and talk.take_back() == "first"
    ask("long", talk, screen)
    assert "/new begins a new conversation" in out.getvalue() and not talk.history


def test_commands_with_a_server(fake: Fake) -> None:
    talk, screen, out = session(fake)
    fake.answers = [ANSWER, ANSWER]
    for line in (
        "/effort",
        "/effort low",
        "/tools",
        "/tokens",
        "/model",
        "/model sekond",
        "/model second",
    ):
        slash.run(line, talk, screen)
    ask("Hi", talk, screen)
    slash.run("/tokens", talk, screen)
    for said in (
        "effort: as the server chooses",
        "the server is asked for: none of its own tools",
        "counted no tokens",
        f"model: first, {fake.url}/v1",
        "first stays: ",
        "did you mean second?",
        "model: second",
        "11 tokens read, 7 written",
    ):
        assert said in out.getvalue(), said
    assert fake.asked[0]["model"] == "second" and fake.asked[0]["reasoning_effort"] == "low"


def test_tools_of_the_server_are_asked_for(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = [ANSWER]
    code, _, _ = chat(
        monkeypatch, capsys, "Hi\n", "--server", fake.url, "--tools", "python,browser"
    )
    assert code == 0
    assert fake.asked[0]["tools"] == [{"type": "python"}, {"type": "browser"}]


def test_calls_of_a_loaded_conversation_are_sent(fake: Fake) -> None:
    calls = [{"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    chat_form = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "x", "content": "3"},
        {"role": "assistant", "content": "3."},
    ]
    talk, screen, _ = session(fake)
    talk.history = list(Conversation.from_chat(chat_form, system=None).messages)
    talk.effort = Effort.HIGH
    fake.answers = [ANSWER]
    ask("and?", talk, screen)
    sent = fake.asked[0]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "assistant", "user"]
    (call,) = sent[1]["tool_calls"]
    assert call["function"] == calls[0]["function"] and call["id"] == sent[2]["tool_call_id"]


def test_results_go_to_their_calls(fake: Fake) -> None:
    """Of two calls at once, in whatever order the results come; and of one after the other."""
    ids = {"a": "add", "b": "multiply", "c": "add"}
    calls = {
        id: {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id, name in ids.items()
    }
    chat_form = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": None, "tool_calls": [calls["a"], calls["b"]]},
        {"role": "tool", "tool_call_id": "b", "content": "of b"},
        {"role": "tool", "tool_call_id": "a", "content": "of a"},
        {"role": "assistant", "content": None, "tool_calls": [calls["c"]]},
        {"role": "tool", "tool_call_id": "c", "content": "of c"},
    ]
    talk, screen, _ = session(fake)
    talk.history = list(Conversation.from_chat(chat_form, system=None).messages)
    fake.answers = [ANSWER]
    ask("and?", talk, screen)
    sent = fake.asked[0]["messages"]
    called = [call for m in sent for call in m.get("tool_calls", ())]
    names = {call["id"]: call["function"]["name"] for call in called}
    assert len(names) == 3 and [len(m.get("tool_calls", ())) for m in sent[1:5]] == [2, 0, 0, 1]
    results = [(names[m["tool_call_id"]], m["content"]) for m in sent if m["role"] == "tool"]
    assert results == [("multiply", "of b"), ("add", "of a"), ("add", "of c")]
    assert len({m["tool_call_id"] for m in sent if m["role"] == "tool"}) == 3


def test_a_server_that_is_gone_or_silent_is_said_to_be(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Server("http://127.0.0.1:9/v1", None, "m")
    with pytest.raises(RequestError, match="cannot be reached: Connection refused"):
        gone.with_model("other")
    monkeypatch.setattr(remote, "LIST_PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RequestError, match=r"cannot be reached: .*timed out"):
            Server.at(address, None, None)


def test_a_chat_with_a_server_loads_no_torch(fake: Fake) -> None:
    fake.answers = [ANSWER]
    program = (
        "import sys; from ossia.commands.main import main\n"
        f"code = main(['chat', '--server', {fake.url!r}])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input="Hi\n", text=True, capture_output=True, env=environment())
    assert (done.returncode, done.stdout) == (0, "thinking: Hm.\n85\n"), done.stderr
