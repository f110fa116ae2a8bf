"""Everything that can go wrong, as exceptions whose message is one line a person can act on.

CocoSearchError
├── SettingsError          a setting from the environment or the command line makes no sense
├── AnnotationError        an annotation file is missing, broken or lacks what was asked for
├── DownloadError          a file cannot be fetched, is not what it should be, or there is no room for it
├── PhotoError             one photo cannot be read (ingestion records it and goes on)
├── EncoderError           a model cannot be loaded or does not do what is needed
├── TextError              one text cannot be encoded or decoded
├── QueryError             a question that cannot be asked, such as an id that is not there
├── EvaluationError        there is nothing, or not enough, to evaluate
└── IndexFailure           the index cannot do what was asked
    ├── CollectionMissing  there is no such collection
    ├── IndexBusy          another process has the embedded index open
    ├── SpecMismatch       the collection was made with another model, prompt or data set
    ├── InvalidPoints      points that must never be stored (NaN, zero length, wrong shape)
    └── ServerError        a Qdrant server refused or did not answer

The library raises these; only the commands turn them into an exit code.
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
    "PhotoError",
    "QueryError",
    "ServerError",
    "SettingsError",
    "SpecMismatch",
    "TextError",
]


class CocoSearchError(Exception):
    """Base of all errors of this project; the message is one line."""


class SettingsError(CocoSearchError):
    """A setting from the environment or the command line makes no sense."""


class AnnotationError(CocoSearchError):
    """An annotation file is missing, broken or lacks what was asked for."""


class DownloadError(CocoSearchError):
    """A file cannot be fetched, is not what it should be, or there is no room for it."""


class PhotoError(CocoSearchError):
    """One photo cannot be read; the message is the reason, without the file's name."""


class EncoderError(CocoSearchError):
    """A model cannot be loaded or does not do what is needed."""


class TextError(CocoSearchError):
    """One text cannot be encoded or decoded; the message is the reason, without the text."""


class QueryError(CocoSearchError):
    """A question that cannot be asked."""


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
    """Points that must never be stored."""


class ServerError(IndexFailure):
    """A Qdrant server refused or did not answer; `transient` where trying again may help, `retry_after` seconds later
    where the server says so."""

    def __init__(self, message: str, *, transient: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.transient, self.retry_after = transient, retry_after
