"""The exceptions of this project; the message of each is one line that says what was wrong and what to do.

CocoSearchError
├── SettingsError          a setting from the environment or the command line is not valid
├── AnnotationError        an annotation file is missing, broken or lacks what was asked for
├── DownloadError          a file cannot be fetched, is not what it should be, or does not fit on the disk
│   ├── Unreachable        the server did not answer, after all retries
│   └── OutOfRoom          the files are larger than announced: the whole download stops
├── PhotoError             one photo cannot be read (ingestion records it and continues)
├── WorkerDied             a process that decodes photos exited or was killed
├── EncoderError           a model cannot be loaded, or cannot embed both images and texts
├── TextError              one text cannot be encoded or decoded
├── QueryError             a query is not valid
│   └── NotHere            the image, caption or uploaded picture that it names does not exist
├── EvaluationError        there is nothing, or not enough, to evaluate
└── IndexFailure           the index cannot do what was asked
    ├── CollectionMissing  there is no such collection
    ├── IndexBusy          another process has the embedded index open
    ├── SpecMismatch       the collection was made with another model, prompt or data set
    ├── InvalidPoints      points must not be stored (NaN, zero length, wrong shape)
    └── ServerError        a Qdrant server refused or did not answer

The library raises these; only the commands turn them into an exit code. `ingest.download.http` also has a private
subclass of DownloadError, which tells its own retry loop to make another attempt and never leaves that module.
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
    "NotHere",
    "OutOfRoom",
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
    """An annotation file is missing, broken or lacks what was asked for."""


class DownloadError(CocoSearchError):
    """A file cannot be fetched, is not what it should be, or does not fit on the disk."""


class Unreachable(DownloadError):
    """The server did not answer, after all retries; the fault may be the network's."""


class OutOfRoom(DownloadError):
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


class NotHere(QueryError):
    """The image, caption or uploaded picture that a request names does not exist."""


class EvaluationError(CocoSearchError):
    """There is nothing, or not enough, to evaluate."""


class IndexFailure(CocoSearchError):
    """The index cannot do what was asked."""


class CollectionMissing(IndexFailure):
    """There is no such collection."""


class IndexBusy(IndexFailure):
    """Another process has the embedded index open."""


class SpecMismatch(IndexFailure):
    """The collection was made with another model, prompt or data set."""


class InvalidPoints(IndexFailure):
    """Points must not be stored: NaN, zero length or a wrong shape."""


class ServerError(IndexFailure):
    """A Qdrant server refused or did not answer.

    `transient` is true if a retry may help; `retry_after` is how many seconds the server asks to wait, or 0.
    """

    def __init__(self, message: str, *, transient: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.transient, self.retry_after = transient, retry_after
