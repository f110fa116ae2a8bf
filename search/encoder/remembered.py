"""Remember the facts that loading a model establishes, so that a run with nothing to encode need not load it again.

The user's cache holds it, with a fingerprint of the model's files: names, sizes and times. If one of them changes, or
the libraries that load them do, the model has to be loaded again. Deleting the cache is safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from search.encoder.cache import cache_folder
from search.encoder.hub import ModelSource, locate
from search.files import replace_file
from search.index.spec import ModelId, Padding

if TYPE_CHECKING:
    from search.encoder.clip import ClipEncoder

_LIBRARIES = ("sentence-transformers", "transformers", "coco-search")


class _Facts(BaseModel):
    """What loading and probing a model, and perhaps a text model, has shown; `files` is the fingerprint."""

    model_config = ConfigDict(frozen=True)

    files: str
    model: ModelId
    text_model: ModelId | None
    dim: int
    padding: Padding
    roles: bool


@dataclass(frozen=True, slots=True)
class KnownEncoder:
    """An encoder that is not loaded: what the specification of a collection says about it."""

    model_id: ModelId
    text_model_id: ModelId | None
    dim: int
    padding: Padding
    roles: bool
    dtype: str
    prompt: str | None
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        return self.model_id.model

    @property
    def weights(self) -> str:
        return self.model_id.weights


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model and perhaps of a text model, as they are on this machine now."""

    names: str
    fingerprint: str

    @classmethod
    def of(cls, model: str, text_model: str | None) -> ModelFiles | None:
        """Return the files of these models; None if some are not on this machine, or cannot be listed.

        Raises:
            EncoderError: a model does not exist, or the hub cannot be reached and the model is not cached.
        """
        sources = [locate(each) for each in (model, text_model) if each is not None]
        digest = hashlib.sha256(" ".join(f"{library} {version(library)}" for library in _LIBRARIES).encode())
        try:
            for source in sources:
                digest.update("\n".join(["", *_listing(source)]).encode("utf-8", "surrogateescape"))
        except OSError:
            return None
        return cls("\n".join(f"{source.name} {source.revision}" for source in sources), digest.hexdigest())

    def recall(self, *, dtype: str, prompt: str | None) -> KnownEncoder | None:
        """Return the encoder of these models with this dtype and prompt, if they were loaded before."""
        try:
            facts = _Facts.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return None
        if facts.files != self.fingerprint:
            return None
        return KnownEncoder(facts.model, facts.text_model, facts.dim, facts.padding, facts.roles, dtype, prompt)

    def remember(self, encoder: ClipEncoder) -> None:
        """Keep what `encoder`, loaded from these files, has shown; do nothing if the cache cannot be written."""
        facts = _Facts(
            files=self.fingerprint,
            model=encoder.model_id,
            text_model=encoder.text_model_id,
            dim=encoder.dim,
            padding=encoder.padding,
            roles=encoder.roles,
        )
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, facts.model_dump_json())

    @property
    def _file(self) -> Path:
        return cache_folder() / f"model-{hashlib.sha256(self.names.encode()).hexdigest()[:32]}.json"


def _listing(source: ModelSource) -> Iterator[str]:
    """Yield a line for each file of a model: its path, size and times.

    Raises:
        OSError: the files are not all in one folder of this machine, or one of them cannot be examined.
    """
    if source.folder is None:
        raise FileNotFoundError(source.name)
    for folder, folders, names in os.walk(source.folder, onerror=_fail):
        folders.sort()
        if any((Path(folder) / name).is_symlink() for name in folders):  # what it leads to would not be listed
            raise OSError(f"a link in {folder}")
        for name in sorted(names):
            path = Path(folder) / name
            status = path.stat()
            yield f"{path.relative_to(source.folder)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _fail(error: OSError) -> None:
    raise error
