"""Locate a model: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from search.errors import EncoderError
from search.text import shown

HUB_SECONDS = 10  # timeout of the first request to the model hub


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The location of a model: a hub name with its revision, a commit, or an absolute folder.

    `folder` holds its files, all or some of them, if any are on this machine.
    """

    name: str
    revision: str | None
    folder: Path | None

    @property
    def cached(self) -> bool:
        return self.folder is not None


def locate(model: str) -> ModelSource:
    """Find a model, such as `NAME`, `NAME@REVISION` or a folder, without loading it.

    A revision is a commit, a tag or a branch of the hub; the result holds the commit.

    Raises:
        EncoderError: the folder, name or revision does not exist, or the hub cannot be reached and the model is not
            cached.
    """
    folder = Path(os.path.expanduser(model))  # noqa: PTH111 - unlike Path.expanduser, it never raises
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise EncoderError(f"{model} contains no sentence-transformers model (no modules.json): check --model")
        path = str(folder.resolve())
        if shown(path) != path:  # the libraries that read weights accept no other names
            raise EncoderError(f"the name of the model folder {model} is not valid UTF-8: rename it")
        return ModelSource(path, None, Path(path))
    name, at, revision = model.partition("@")  # a branch may contain slashes
    if folder.is_absolute() or model.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"no model folder {model}: check --model")
    if at and not revision:
        raise EncoderError(f"{model} has no revision after the @: use --model {name}@REVISION, or --model {name}")
    if at and Path(name).is_dir():
        raise EncoderError(f"{model}: the folder {name} has no revisions: use --model {name}")
    return _locate_on_hub(name if "/" in name else f"sentence-transformers/{name}", revision or None)


def _locate_on_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    full_name = f"{name}@{revision}" if revision else name
    elsewhere = "give a model folder with --model PATH"
    absent = f"the model {full_name} is not in this machine's cache"
    try:
        for file in ("modules.json", "config.json"):
            if isinstance(cached := try_to_load_from_cache(name, file, revision=revision), str):
                return ModelSource(name, Path(cached).parent.name, Path(cached).parent)
        if constants.HF_HUB_OFFLINE:
            raise EncoderError(f"{absent} and HF_HUB_OFFLINE is set: unset it, or {elsewhere}")
        if problem := _unreachable(constants.ENDPOINT):  # the hub's client would retry for a minute
            raise EncoderError(f"{absent} and the model hub cannot be reached ({problem}): {elsewhere}")
        commit = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha
        return ModelSource(name, commit, None)
    except HFValidationError:
        raise EncoderError(
            f"{name} is neither a model folder nor a valid name on the model hub: check --model"
        ) from None
    except transport_errors() as error:
        if not isinstance(error, HfHubHTTPError):
            raise EncoderError(
                f"{absent} and the connection to the model hub failed ({first_line(error)}): {elsewhere}"
            ) from error
        status = error.response.status_code
        raise EncoderError(
            f"the model hub does not provide {full_name} (HTTP {status}): check the name, or {elsewhere}"
        ) from error


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the HTTP library that the hub's client uses, which it raises if a connection breaks."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError") or (OSError,)


def _unreachable(url: str) -> str | None:
    """Return why nothing answers at `url`, or None if something does."""
    try:
        with urllib.request.urlopen(url, timeout=HUB_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: it is not a URL
        return str(getattr(error, "reason", error))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
