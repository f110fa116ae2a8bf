"""What the three commands share: the options that say where the index is, and how errors end."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.errors import CocoSearchError, CollectionMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search.index import Index

PathOption = Annotated[
    Path | None,
    typer.Option("--path", help="Folder of the embedded index (default: $INDEX_PATH or ./index)", show_default=False),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="A Qdrant server, such as http://localhost:6333 (default: $QDRANT_URL)"),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Names the two collections (default: the only one there, or coco)"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON on stdout")]


class Exit(IntEnum):
    """Exit codes of all commands; 2 is a wrong call, by Typer."""

    DONE = 0
    ERROR = 1
    PARTLY = 3  # finished, but some inputs failed
    INTERRUPTED = 130


def application(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, name: str) -> None:
    """Runs a command line; our errors become one line on stderr and exit code 1."""
    try:
        app(prog_name=name)
    except (CocoSearchError, OSError) as error:  # OSError: a file or folder that the user named
        print(f"error: {error}", file=sys.stderr)
        sys.exit(Exit.ERROR)


def warn_of_pending(index: Index, collections: Iterable[str]) -> None:
    """Print a line for each node that does not answer, and for each collection that does not answer as it should.

    A collection that is missing is skipped.
    """
    warn_of_silent_nodes(index)
    for collection in collections:
        try:
            pending = index.pending(collection)
        except CollectionMissing:  # whatever reads from it says so
            continue
        if pending:
            note(f"warning: {pending}")


def warn_of_silent_nodes(index: Index) -> None:
    """Print a line for each node that does not answer."""
    for url in index.silent_nodes():
        note(f"warning: the node at {url} does not answer")


def note(message: str) -> None:
    """A line for a person, beside the results."""
    print(message, file=sys.stderr)
