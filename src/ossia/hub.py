"""From a model's name to its folder: the embedded nano, a path, or a download from the Hugging Face
hub.

Downloads resume where they stopped and are kept in huggingface_hub's own cache. Knows no tensors.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from ossia.errors import ModelNotFoundError

# Short names of the published models; anything else with a slash is a hub id as it stands.
HUB_IDS = {"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"}
WANTED = ["config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json"]
WANTED += ["*.safetensors", "model.safetensors.index.json", "chat_template.jinja"]
NOT_WANTED = ["original/*", "metal/*"]  # the same weights again, in other layouts


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: "nano", a path, "gpt-oss-20b", or a hub id such as
    "openai/gpt-oss-20b".

    Raises `ModelNotFoundError` saying what was tried and what to do.
    """
    if name == "nano":
        return embedded("nano")
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = os.fspath(name)
    repo = HUB_IDS.get(text, text)
    if repo.count("/") != 1 or text.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"{text!r} is neither a folder here nor a model name; use nano, {', '.join(HUB_IDS)}, "
            "a path, or a Hugging Face id such as openai/gpt-oss-20b"
        )
    return _download(repo)


def embedded(name: str) -> Path:
    """The folder of a checkpoint that is part of the package."""
    return Path(str(files("ossia").joinpath("assets", name)))


def _download(repo: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repo, allow_patterns=WANTED, ignore_patterns=NOT_WANTED
        )
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"{repo!r} is neither a folder here nor a valid Hugging Face id"
        ) from error
    except LocalEntryNotFoundError as error:
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
    return Path(folder)


def _connection_errors(hub_error: type[Exception]) -> tuple[type[Exception], ...]:
    """What huggingface_hub lets through when a connection breaks: the base of its own errors, from
    whichever edition of httpx it uses.
    """
    bases = (base for base in hub_error.__mro__ if issubclass(base, Exception))
    return tuple(base for base in bases if base.__module__.startswith("httpx"))
