"""The command line, by calling `main` and in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import warm_python
from tiny_model import (
    Script,
    call,
    environment,
    final,
    scripted,
    thought,
    write_endless,
    write_tiny,
)

import ossia
import ossia.llm
from ossia.commands.display import in_columns, progress
from ossia.commands.main import main
from ossia.engine import Engine

COMMANDS = (
    "chat",
    "generate",
    "serve",
    "info",
    "convert",
    "eval",
    "harmony",
    "harmony render",
    "harmony parse",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def endless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless(tmp_path_factory.mktemp("models") / "endless", tiny)


def ossia_process(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ossia", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment(), **options
    )


def say(monkeypatch: pytest.MonkeyPatch, tiny: Path, *samples: str) -> Script:
    """Let `ossia chat` load a model that says these samples."""
    llm, script = scripted(tiny, *samples)
    monkeypatch.setattr(ossia.llm, "load", lambda *_, **__: llm)
    return script


def pipe_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# ---- help and errors ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out and f"  ossia {command}" in out
    assert max(map(len, out.splitlines())) <= 110


def test_help_imports_no_torch() -> None:
    program = (
        "import sys; from ossia.commands.main import parser; parser().format_help(); "
        "exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], env=environment()).returncode == 0
    out = ossia_process("--help").stdout
    assert (
        all(f"    {command}" in out for command in COMMANDS if " " not in command)
        and "exit codes:" in out
    )
    assert ossia_process("--version").stdout.startswith("ossia 0.")


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["chat", "--effort", "huge"],
        ["chat", "--date", "tomorrow"],
        ["chat", "--hide-reasoning", "--show-reasoning"],
        ["generate", "--ids", "1,x"],
        ["generate", "--ids", "1", "--prompt", "x"],
        ["eval", "--samples", "0"],
        ["convert"],
        ["convert", "a", "b", "--to", "ggml"],
    ],
)
def test_arguments_that_make_no_sense(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert "usage: ossia" in capsys.readouterr().err


def test_ossia_alone_says_what_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "ossia chat " in out and "ossia serve " in out and "ossia --help" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        *[
            ([name[0] + name[2] + name[1] + name[3:]], name)
            for name in ("chat", "serve", "train", "eval", "bench")
        ],
        (["harmony", "rendr"], "render"),
        (["chat", "--efort", "high"], "--effort"),
        (["chat", "--effort", "hgih"], "high"),
        (["serve", "--prot=1"], "--port"),
        (["train", "sft", "--dryrun"], "--dry-run"),
        (["convert", "a", "b", "--too", "hf"], "--to"),
        (["harmony", "parse", "--strikt"], "--strict"),
        (["--verison"], "--version"),
    ],
)
def test_what_was_meant_is_suggested(
    args: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["chat", "no-such-model"], "'no-such-model' is neither a folder here nor a model name"),
        (["chat", "TINY", "--temperature", "-1"], "temperature must be 0 or more, found -1.0"),
        (["chat", "TINY", "--device", "toaster"], "'toaster' is no device"),
        (["generate", "TINY", "--ids", "1,2,999999"], "token id 999999 is outside the vocabulary"),
        (["generate", "TINY", "--ids", ""], "no tokens were given"),
        (["generate", "TINY", "--prompt", ""], "no tokens were given"),
        (["generate", "TINY", "--prompt-file", "/no/such"], "--prompt-file /no/such: No such file"),
        (["info", "no-such-model"], "'no-such-model' is neither a folder here"),
        (["convert", "DST"], "either SRC, a checkpoint to read, or --random PRESET"),
        (["convert", "TINY", "DST", "--random", "nano"], "either SRC"),
        (["convert", "no-such-model", "DST"], "'no-such-model' is neither a folder here"),
        (["convert", "--random", "gpt-5", "DST"], "no preset 'gpt-5'"),
        (["convert", "TINY", "TINY"], "would replace"),
        (["eval", "TINY", "--task", "poetry"], "there is no task 'poetry'; there are arithmetic"),
    ],
)
def test_errors_are_one_clear_line(
    args: list[str], said: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"TINY": str(tiny), "DST": str(tmp_path / "new")}
    assert main([places.get(arg, arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ossia: ") and err.count("\n") == 1 and said in err
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    assert main(["convert", "--random", "gpt-oss-120b", str(tmp_path / "big")]) == 2
    assert "bytes of disk, 1,000 are free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "/x"), 1, "ossia: /x: No space left on device\n"),
        (MemoryError(), 1, "ossia: out of memory:\n"),
        (
            RuntimeError("can't allocate memory:\nyou tried 9 GB"),
            1,
            "ossia: out of memory: can't allocate",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_when_the_machine_fails(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ossia.llm, "load", fail)
    assert main(["chat"]) == code
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") <= 1


def test_our_own_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(ossia.llm, "load", fail)
    with pytest.raises(RuntimeError, match="sizes differ"):
        main(["chat"])


# ---- info ----


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [
        ("gpt-oss-20b", "1.16B 0.64B 19.12B 20.91B 3.61B 12.8\u00a0GiB"),
        ("gpt-oss-120b", "1.16B 0.96B 114.71B 116.83B 5.13B 60.8\u00a0GiB"),
        ("openai/gpt-oss-20b", "20.91B"),
    ],
)
def test_info_of_a_preset_needs_no_weights(
    preset: str, numbers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", preset]) == 0
    out = capsys.readouterr().out
    for number in numbers.split(" "):
        assert f" {number} ".replace("\u00a0", " ") in out.replace("\n", " ")


def test_info_lays_components_and_cache_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "gpt-oss-20b"]) == 0
    rows = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["total"] == ["20.91B", "20,914,757,184", "100.00%", "12.8", "GiB"]
    assert rows["MLP (router + experts)"][:3] == ["19.12B", "19,119,145,728", "91.41%"]
    assert (
        rows["embedding + unembedding"][0] == "1.16B" and rows["active for one token"][0] == "3.61B"
    )
    assert main(["info", "gpt-oss-20b", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["kv_cache_bytes"]["per_token_within_window"] == 24 * 2 * 8 * 64 * 2
    assert info["kv_cache_bytes"]["full_context"] == 2 * 8 * 64 * 2 * (12 * 131072 + 12 * 128)
    assert info["config"]["num_hidden_layers"] == 24 and info["kernels"][0]["operation"]


def test_info_of_a_folder(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny)]) == 0
    out = capsys.readouterr().out
    for part in (
        "hf layout",
        "model.safetensors",
        "9 specials",
        "all that Harmony needs",
        "top_k 50",
        "MXFP4",
    ):
        assert part in out
    assert main(["convert", str(tiny), str(tmp_path / "bf16"), "--to", "hf-bf16"]) == 0
    (tmp_path / "bf16" / "tokenizer.json").unlink()
    capsys.readouterr()
    assert main(["info", str(tmp_path / "bf16")]) == 0
    assert "only token ids can be used" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "bf16"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["layout"] == "hf-bf16" and info["bytes"]["total"] == info["bytes"]["total_if_bf16"]
    assert info["tokenizer"] is None and info["files"]["model.safetensors"] > info["bytes"]["total"]


# ---- convert ----


@pytest.mark.parametrize("layout", ["hf", "original", "hf-bf16"])
def test_convert_random(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = str(tmp_path / "nano")
    assert (
        main(["convert", "--random", "nano", made, "--to", layout, "--layers", "1", "--seed", "7"])
        == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert out[-1].endswith(f"in {made}, layout {layout}") and any(
        "model.safetensors" in line for line in out
    )
    assert main(["info", made, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["layout"] == layout and info["config"]["num_hidden_layers"] == 1
    assert main(["convert", "--random", "nano", made]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["convert", "--random", "nano", made, "--layers", "2", "--overwrite"]) == 0


def test_convert_there_and_back(tiny: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    assert main(["convert", str(tiny), str(there), "--to", "original", "--rule", "best"]) == 0
    assert main(["convert", str(there), str(back)]) == 0
    for name in ("model.safetensors", "tokenizer.json"):
        assert (back / name).read_bytes() == (tiny / name).read_bytes()


def test_progress_shows_nothing_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("working") as tell:
        tell(1, 2)
    assert capfd.readouterr() == ("", "")


def test_reading_a_long_prompt_is_told(tiny: Path) -> None:
    llm = ossia.load(tiny)
    told: list[tuple[int, int]] = []
    ids = [n % 200 for n in range(120)]
    llm.engine = Engine(llm.model, max_batch_tokens=50)
    list(llm.generate(ids, max_tokens=2, progress=lambda done, total: told.append((done, total))))
    assert told[:3] == [(50, 120), (100, 120), (120, 120)]


# ---- generate ----


def test_generate_streams_text_and_holds_half_characters_back(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = say(monkeypatch, tiny, "語 és<|end|> 85<|return|>", "語<|end|>", "語<|return|>")
    assert main(["generate", "--prompt", "<|start|>Hi"]) == 0
    assert capsys.readouterr().out == "語 és 85\n"
    assert script.prompts == ["<|start|>Hi"]
    assert main(["generate", "--specials", "--prompt", "<|start|>Hi"]) == 0
    assert capsys.readouterr().out == "語<|end|>\n"
    pipe_in(monkeypatch, "from a pipe")
    assert main(["generate"]) == 0
    assert script.prompts[2] == "from a pipe"


def test_generate_text_and_specials_are_different_tokens(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = say(monkeypatch, tiny, "a<|return|>", "a<|return|>", "a<|return|>")
    lengths = []
    for more in ([], ["--specials"]):
        assert main(["generate", "--json", "--prompt", "<|start|>", *more]) == 0
        lengths.append(len(json.loads(capsys.readouterr().out)["prompt_ids"]))
    assert lengths[0] > 1 and lengths[1] == 1
    assert main(["generate", "--json", "--ids", "1, 2,3"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prompt_ids"] == [1, 2, 3] and answer["text"] == "a"
    assert answer["ids"][-1] == script.tokenizer.special("<|return|>")


def test_generate_for_real(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["generate", str(tiny), "--ids", "5,17,42", "--max-tokens", "4", "--seed", "1", "--json"]
    answers = []
    for _ in range(2):
        assert main(args) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert len(answers[0]["ids"]) == len(answers[0]["logprobs"]) <= 4
    assert answers[0]["finish_reason"] in ("stop", "length")


def test_generate_without_a_tokenizer_prints_ids(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, script = scripted(tiny, "ab<|return|>")
    llm.maybe_tokenizer = None
    monkeypatch.setattr(ossia.llm, "load", lambda *_, **__: llm)
    assert main(["generate", "--ids", "1"]) == 0
    ids = script.tokenizer.encode_with_specials("ab<|return|>")
    assert capsys.readouterr().out.split() == list(map(str, ids))


# ---- chat through a pipe ----


def test_each_line_is_a_turn(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = say(
        monkeypatch, tiny, thought("7 and 8.\nEasy.") + final("85"), final("You asked.\nTwice.")
    )
    pipe_in(monkeypatch, "What is 37 + 48?\n\n   \nWhat did I ask?")
    assert (
        main(["chat", "--date", "2025-08-05", "--instructions", "Be brief.", "--effort", "low"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "thinking: 7 and 8.\nthinking: Easy.\n85\n\nYou asked.\nTwice.\n" and err == ""
    assert "Reasoning: low" in script.prompts[0] and "Current date: 2025-08-05" in script.prompts[0]
    assert (
        "Be brief." in script.prompts[0]
        and "37 + 48" in script.prompts[1]
        and "85" in script.prompts[1]
    )


def test_the_calculator_is_offered_called_and_shown(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = thought("I use it.") + call("calculator", '{"expression": "37 + 48"}')
    script = say(monkeypatch, tiny, asks, call("oracle", "{}"), final("85"), final("no tools"))
    pipe_in(monkeypatch, "What is 37 + 48?")
    assert main(["chat", "--calculator", "--hide-reasoning"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == ['call: calculator {"expression": "37 + 48"}', "result: 85", "85"]
    assert "there is no tool" in script.prompts[2]  # told to the model, which tries again
    assert "type calculator = (_: {" in script.prompts[0] and ">85<" in script.prompts[1]
    pipe_in(monkeypatch, "Hi")
    assert main(["chat", "--date", "none"]) == 0
    assert "calculator" not in script.prompts[3] and "Current date" not in script.prompts[3]


def test_what_is_cut_is_said_on_stderr(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = "<|channel|>final<|message|>It is"
    say(
        monkeypatch,
        tiny,
        half,
        "<|channel|>analysis<|message|>I th",
        final("ok"),
        thought("?") + "<|return|>",
    )
    pipe_in(monkeypatch, "a\nb\nc\nd\n")
    assert main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert out == "It is\n\nthinking: I th\n\nok\n\nthinking: ?\n"
    assert [line.split(": ")[0] for line in err.splitlines()] == ["ossia"] * 3
    assert (
        "as far as it got" in err
        and "the question is forgotten" in err
        and "without an answer" in err
    )


def test_what_a_model_says_cannot_command_the_terminal(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, tiny, final("a\x1b]52;c;aGk=\x07b\tc\r"))
    pipe_in(monkeypatch, "Hi")
    assert main(["chat"]) == 0
    assert capsys.readouterr().out == "a\ufffd]52;c;aGk=\ufffdb\tc\ufffd\n"


def test_a_question_that_does_not_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe_in(monkeypatch, "apple " * 2000)
    assert main(["chat", str(tiny)]) == 2
    assert "the context holds 1024" in capsys.readouterr().err


@pytest.mark.slow  # a second process: nano's below has pipes, and what is cut is told above
def test_a_process_with_pipes(endless: Path) -> None:
    run = ossia_process("chat", endless, "--max-tokens", "4", input="Hi\n")
    assert run.returncode == 0 and "\x1b" not in run.stdout + run.stderr
    assert run.stderr.startswith("ossia: the tokens ran out")


def test_nothing_comes_through_the_pipe(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, "")
    assert main(["chat", str(tiny)]) == 0


def test_nobody_reads_the_output(endless: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ossia",
        "generate",
        str(endless),
        "--prompt",
        "Hi",
        "--max-tokens",
        "200",
    ]
    with warm_python.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_nano_through_a_pipe() -> None:
    """What the README promises."""
    run = ossia_process("chat", input="What is 37 + 48?")
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and lines[0].startswith("thinking: ")
    assert "\x1b" not in run.stdout + run.stderr
    assert "85" in lines[-1] and not lines[-1].startswith("thinking: ")


# ---- eval ----


def test_eval_prints_a_table(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "eval",
        str(tiny),
        "--samples",
        "2",
        "--max-tokens",
        "2",
        "--seed",
        "1",
        "--task",
        "arithmetic",
    ]
    assert main([*args, "--effort", "low", "--effort", "high", "--failures", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["|", "task", "|", "low", "|", "high", "|"]
    assert lines[2].startswith("| arithmetic  | 0.0% (0/2, 0.0% to")
    assert any("of 4 answers were cut after 2 tokens" in line for line in lines)
    assert lines[-1].startswith("arithmetic low: ")
    assert main([*args, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (
        len(report["accuracy"]) == 6 and report["accuracy"][0]["asked"] == 2 and report["cut"] >= 0
    )


def test_columns_fold_only_where_a_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("name", "word " * 20), ("[b]longer[/b]", "1")]
    piped = list(in_columns(rows))
    assert piped == ["  name           " + ("word " * 20).rstrip(), "  [b]longer[/b]  1"]
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    narrow = list(in_columns(rows))
    assert max(map(len, narrow)) <= 40 and " ".join(narrow).count("word") == 20
    numbers = [("", "median"), ("prefill_512", "1.25")]
    assert list(in_columns(numbers, indent=0, right=1)) == [
        "             median",
        "prefill_512    1.25",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
