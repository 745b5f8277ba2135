"""From names to files on the hub. Nothing is downloaded: a folder stands for a repository."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from ossia import hub
from ossia.errors import ModelNotFoundError

REPO = "someone/gpt-oss-GGUF"
SAFETENSORS = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
]
ONE = ["README.md", "gpt-oss-20b-mxfp4.gguf"]
MANY = [
    "README.md",
    "gpt-oss-20b-F16.gguf",
    "gpt-oss-20b-BF16.gguf",
    "gpt-oss-20b-Q4_K_M.gguf",
    "gpt-oss-20b-UD-Q4_K_XL.gguf",
    "Q8_0/gpt-oss-120b-Q8_0-00001-of-00002.gguf",
    "Q8_0/gpt-oss-120b-Q8_0-00002-of-00002.gguf",
    "mmproj-F16.gguf",
]


class Hub:
    """What huggingface_hub answers: `files` of any repository, kept in `cache` once asked for."""

    def __init__(self, cache: Path, files: list[str]) -> None:
        self.cache = cache
        self.files = files
        self.fetched: list[str] = []
        self.is_reachable = True

    def list_repo_files(self, repo: str) -> list[str]:
        from huggingface_hub.errors import OfflineModeIsEnabled

        if not self.is_reachable:
            raise OfflineModeIsEnabled("no network")
        return self.files

    def snapshot_download(
        self,
        repo: str,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if not self.is_reachable and not self.cache.exists():
            raise LocalEntryNotFoundError("nothing here")
        self.cache.mkdir(exist_ok=True)
        for name in self.files if self.is_reachable and not local_files_only else ():
            wanted = allow_patterns is None or any(fnmatch(name, one) for one in allow_patterns)
            if wanted and not any(fnmatch(name, one) for one in ignore_patterns or ()):
                (self.cache / name).parent.mkdir(exist_ok=True)
                (self.cache / name).touch()
                self.fetched.append(name)
        return str(self.cache)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(files: list[str]) -> Hub:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        found = Hub(tmp_path / "cache", files)
        for name in ("list_repo_files", "snapshot_download"):
            monkeypatch.setattr(f"huggingface_hub.{name}", getattr(found, name))
        return found

    return made


def test_safetensors_are_taken_before_ggufs(serve: Any) -> None:
    made = serve([*SAFETENSORS, *ONE, "original/model.safetensors"])
    assert hub.find(REPO) == made.cache and sorted(made.fetched) == sorted(SAFETENSORS)


def test_the_only_gguf_of_a_repository(serve: Any) -> None:
    made = serve(ONE)
    assert hub.find(REPO) == made.cache / ONE[1] and made.fetched == ONE[1:]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("gpt-oss-20b-F16.gguf", MANY[1]),
        ("F16", MANY[1]),
        ("bf16", MANY[2]),
        ("Q4_K_M", MANY[3]),
        ("q4_k_m", MANY[3]),
        ("UD-Q4_K_XL", MANY[4]),
        ("Q8_0", MANY[5]),
        ("Q8_0/gpt-oss-120b-Q8_0-00002-of-00002.gguf", MANY[5]),
        ("gpt-oss-120b-Q8_0", MANY[5]),
    ],
)
def test_a_gguf_by_its_file_or_its_quantization(wanted: str, found: str, serve: Any) -> None:
    made = serve([*MANY, *SAFETENSORS])
    assert hub.find(f"{REPO}:{wanted}") == made.cache / found
    parts = [name for name in MANY if name.startswith(found[:25])]
    assert made.fetched == (parts if "120b" in found else [found])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (REPO, "has 5 GGUFs; name one after a colon"),
        (f"{REPO}:Q2_K", "has no GGUFs called 'Q2_K'"),
        (f"{REPO}:K_M", "has no GGUFs called"),
    ],
)
def test_what_can_be_chosen_is_listed(name: str, said: str, serve: Any) -> None:
    made = serve(MANY)
    with pytest.raises(ModelNotFoundError) as error:
        hub.find(name)
    assert said in str(error.value) and not made.fetched
    assert all(one in str(error.value) for one in MANY[1:6])


def test_two_of_one_quantization_are_ambiguous(serve: Any) -> None:
    serve(["a/gpt-oss-Q8_0.gguf", "b/gpt-oss-Q8_0.gguf"])
    with pytest.raises(ModelNotFoundError, match=r"2 GGUFs called 'Q8_0'.*a/gpt-oss-Q8_0.gguf, b/"):
        hub.find(f"{REPO}:Q8_0")
    assert hub.find(f"{REPO}:b/gpt-oss-Q8_0.gguf").parent.name == "b"


def test_neither_safetensors_nor_ggufs(serve: Any) -> None:
    serve(["README.md", "pytorch_model.bin"])
    for name in (REPO, f"{REPO}:Q8_0"):
        with pytest.raises(ModelNotFoundError, match="neither safetensors nor GGUF files"):
            hub.find(name)


def test_without_a_network_what_was_downloaded_is_found(serve: Any) -> None:
    made = serve(MANY)
    hub.find(f"{REPO}:Q8_0")
    made.is_reachable = False
    for name in (f"{REPO}:Q8_0", REPO):
        assert hub.find(name) == made.cache / MANY[5]
    with pytest.raises(ModelNotFoundError, match="has no GGUFs called 'F16'"):
        hub.find(f"{REPO}:F16")
    shutil.rmtree(made.cache)
    with pytest.raises(ModelNotFoundError, match="not on this machine, and the Hugging Face hub"):
        hub.find(f"{REPO}:Q8_0")


def test_the_files_of_an_adapter_are_among_those_taken(serve: Any) -> None:
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "optimizer.pt"]
    made = serve(files)
    assert hub.find("someone/adapter") == made.cache and made.fetched == files[1:3]
    made = serve(["README.md", "adapter.json", "weights.safetensors"])
    assert hub.find("someone/run") == made.cache
    assert made.fetched == ["adapter.json", "weights.safetensors"]
