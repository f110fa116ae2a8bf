"""The exceptions of this project. Each message is one line: what was wrong, where, and what to do about it.

CocoSearchError
├── SettingsError          a setting from the environment or the command line is not valid
├── AnnotationError        annotations are missing or broken or lack a split, or not one photo can be used
├── DownloadError          a file cannot be fetched, has the wrong content, or does not fit on the disk
│   ├── Unreachable        the server did not answer, after all retries
│   └── OutOfSpace         the files are larger than announced: the whole download stops
├── PhotoError             one photo cannot be read (ingestion records it and continues)
├── WorkerDied             a process that decodes photos exited or was killed
├── EncoderError           a model cannot be loaded, or cannot embed both images and texts
├── TextError              one text cannot be encoded or decoded
├── QueryError             a query is not valid
│   └── NotFound           the image, caption or uploaded picture that it names does not exist
├── EvaluationError        there is nothing, or not enough, to evaluate
└── IndexFailure           an operation on the index failed
    ├── CollectionMissing  the collection does not exist
    ├── IndexBusy          another process has the embedded index open
    ├── SpecMismatch       the collection was made with another model, prompt or data set
    ├── InvalidPoints      points cannot be stored (NaN, zero length, wrong shape)
    └── ServerError        a server (Qdrant, or `search serve`) refused a request or did not answer

The library raises these; only the commands turn them into an exit code. `ingest.download.http` also has a private
subclass of DownloadError, which makes its retry loop try again and never leaves that module.
"""

from __future__ import annotations

__all__ = [
    "AnnotationError",
    "CocoSearchError",
    "CollectionMissing",
    "DownloadError",
    "EncoderError",
    "EvaluationError",
    "IndexBusy",
    "IndexFailure",
    "InvalidPoints",
    "NotFound",
    "OutOfSpace",
    "PhotoError",
    "QueryError",
    "ServerError",
    "SettingsError",
    "SpecMismatch",
    "TextError",
    "Unreachable",
    "WorkerDied",
]


class CocoSearchError(Exception):
    """Base of all errors of this project; the message is one line."""


class SettingsError(CocoSearchError):
    """A setting from the environment or the command line is not valid."""


class AnnotationError(CocoSearchError):
    """The annotations are missing or broken, or lack a requested split, or not one of their photos can be used."""


class DownloadError(CocoSearchError):
    """A file cannot be fetched, has the wrong content, or does not fit on the disk."""


class Unreachable(DownloadError):
    """The server did not answer, after all retries; the network may be at fault."""


class OutOfSpace(DownloadError):
    """The files are larger than announced before the start: nothing more is fetched."""


class PhotoError(CocoSearchError):
    """One photo cannot be read; the message is the reason, without the file's name."""


class WorkerDied(CocoSearchError):
    """A process that decodes photos exited or was killed."""


class EncoderError(CocoSearchError):
    """A model cannot be loaded, or cannot embed both images and texts."""


class TextError(CocoSearchError):
    """One text cannot be encoded or decoded; the message is the reason, without the text."""


class QueryError(CocoSearchError):
    """A query is not valid, for example because it names an id that is not stored."""


class NotFound(QueryError):
    """The image, caption or uploaded picture that a request names does not exist."""


class EvaluationError(CocoSearchError):
    """There is nothing, or not enough, to evaluate."""


class IndexFailure(CocoSearchError):
    """An operation on the index failed."""


class CollectionMissing(IndexFailure):
    """The collection does not exist."""


class IndexBusy(IndexFailure):
    """Another process has the embedded index open."""


class SpecMismatch(IndexFailure):
    """The collection was made with another model, prompt or data set."""


class InvalidPoints(IndexFailure):
    """Points cannot be stored: NaN, zero length or a wrong shape."""


class ServerError(IndexFailure):
    """A Qdrant server, or the `search serve` that has the index open, refused a request or did not answer.

    `transient` is true if a retry may help; `retry_after` is the number of seconds that the server requests before a
    retry, or 0.
    """

    def __init__(self, message: str, *, transient: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.transient, self.retry_after = transient, retry_after
