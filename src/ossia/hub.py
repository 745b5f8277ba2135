"""From a model's name to its folder or file: the embedded nano, a path, or a download from the
Hugging Face hub.

Of a repository with safetensors their folder is taken; of one with GGUFs alone the only model, or
the one that is named after a colon. Downloads resume where they stopped and are kept in
huggingface_hub's own cache. Knows no tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path, PurePosixPath

from ossia.errors import ModelNotFoundError

# Short names of the published models; anything else with a slash is a hub id as it stands.
HUB_IDS = {"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"}
WANTED = ["config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json"]
WANTED += ["*.safetensors", "model.safetensors.index.json", "chat_template.jinja"]
WANTED += ["adapter_config.json", "adapter.json"]  # of peft, and of a run
NOT_WANTED = ["original/*", "metal/*"]  # the same weights again, in other layouts


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: "nano", a path, "gpt-oss-20b", or a hub id such as
    "openai/gpt-oss-20b". The file, if it is a GGUF: after the id a colon and its name, or that of
    its quantization, as in "ggml-org/gpt-oss-20b-GGUF:MXFP4".

    Raises `ModelNotFoundError` saying what was tried and what to do.
    """
    if name == "nano":
        return embedded("nano")
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = os.fspath(name)
    repo, _, wanted = text.partition(":")
    repo = HUB_IDS.get(repo, repo)
    if repo.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"{text!r} is neither a folder here nor a model name; use nano, {', '.join(HUB_IDS)}, "
            "a path, or a Hugging Face id such as openai/gpt-oss-20b"
        )
    if wanted:
        return _gguf(repo, wanted)
    folder = _snapshot(repo, WANTED)
    return folder if any(folder.glob("*.safetensors")) else _gguf(repo, "")


def embedded(name: str) -> Path:
    """The folder of a checkpoint that is part of the package."""
    return Path(str(files("ossia").joinpath("assets", name)))


def _snapshot(repo: str, files: list[str]) -> Path:
    """Where those files of a repository are once they have been downloaded."""
    import huggingface_hub

    with _explained(repo):
        folder = huggingface_hub.snapshot_download(
            repo, allow_patterns=files, ignore_patterns=NOT_WANTED
        )
    return Path(folder)


def _gguf(repo: str, wanted: str) -> Path:
    """The GGUF (of one in parts the first) that is named by its path or its quantization; the only
    one if `wanted` is "".
    """
    models: dict[str, list[str]] = {}
    for name in sorted(_names(repo)):
        if name.lower().endswith(".gguf") and "mmproj" not in name:
            models.setdefault(_PART.sub("", name), []).append(name)
    fitting = [files for model, files in models.items() if _is_called(model, files, wanted)]
    if not models:
        raise ModelNotFoundError(
            f"{repo} has neither safetensors nor GGUF files; only these can be loaded"
        )
    if len(fitting) != 1:
        named = f" called {wanted!r}" if wanted else ""
        listed = ", ".join(files[0] for files in models.values())
        raise ModelNotFoundError(
            f"{repo} has {len(fitting) or 'no'} GGUFs{named}; name one after a colon, by its file "
            f"or its quantization, as in {repo}:Q4_K_M. There are: {listed}"
        )
    (files,) = fitting
    return _snapshot(repo, files) / files[0]


_PART = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)


def _is_called(model: str, files: list[str], wanted: str) -> bool:
    """By its path, its name, or the end of its name or its folder's, which is the quantization:
    "gpt-oss-20b-Q4_K_M.gguf", "Q4_K_M/gpt-oss-120b-Q4_K_M-00001-of-00002.gguf".
    """
    text, path = wanted.lower(), PurePosixPath(model.lower())
    names = [*map(str.lower, files), *(PurePosixPath(name).name.lower() for name in files)]
    names += [str(path), path.name, path.parent.name]
    ends = (f"-{text}", f".{text}")
    return not text or text in names or path.name.endswith(ends)


def _names(repo: str) -> list[str]:
    """The files of a repository; without a network those that were downloaded."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with _explained(repo):
            return list(huggingface_hub.list_repo_files(repo))
    except ModelNotFoundError as error:
        try:
            folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from error.__cause__
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """What can go wrong in between, as `ModelNotFoundError` with what to do."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"{repo!r} is neither a folder here nor a valid Hugging Face id"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelNotFoundError(
            f"{repo} is not on this machine, and the Hugging Face hub cannot be reached. Connect "
            "and run this again (a download that stopped continues where it was), or fetch it "
            f"elsewhere with `hf download {repo} --local-dir FOLDER` and give the folder's path. "
            "`nano` is part of ossia and needs no network."
        ) from error
    except HfHubHTTPError as error:
        raise ModelNotFoundError(
            f"{repo} could not be downloaded: {error}. Check the name, or log in with "
            "`hf auth login`."
        ) from error
    except _connection_errors(HfHubHTTPError) as error:
        raise ModelNotFoundError(
            f"the download of {repo} broke off: {error or type(error).__name__}. Run this again; "
            "it continues where it was."
        ) from error


def _connection_errors(hub_error: type[Exception]) -> tuple[type[Exception], ...]:
    """What huggingface_hub lets through when a connection breaks: the base of its own errors, from
    whichever edition of httpx it uses.
    """
    bases = (base for base in hub_error.__mro__ if issubclass(base, Exception))
    return tuple(base for base in bases if base.__module__.startswith("httpx"))
