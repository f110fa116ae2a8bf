"""What the three commands share: the options that name the index, groups of options, and how errors end."""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer

from search.errors import CocoSearchError, CollectionMissing
from search.interrupt import INTERRUPTED, raise_on_interrupt
from search.text import holds_unicode, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search.index import ReadIndex

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
    typer.Option("--dataset", help="The name of the two collections (default: the only one in the index, or coco)"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs: JSON on stdout")]


class Exit(IntEnum):
    """Exit codes of all commands; 2 is a wrong call, by Typer."""

    DONE = 0
    ERROR = 1
    PARTLY = 3  # finished, but some inputs failed
    INTERRUPTED = INTERRUPTED


def application(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with each parameter that is a dataclass replaced by the fields of that dataclass.

    Typer reads a function's signature, so it is enough to give the function another one and to build the dataclasses
    when it is called.
    """
    hints = get_type_hints(command, include_extras=True)
    classes = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    plain = [parameter for name, parameter in inspect.signature(command).parameters.items() if name not in classes]
    shown = [parameter.replace(annotation=hints[parameter.name]) for parameter in plain]
    for options in classes.values():
        types = get_type_hints(options, include_extras=True)
        shown += [_keyword(field, types[field.name]) for field in fields(options)]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        groups = {
            name: options(**{field.name: values.pop(field.name) for field in fields(options)})
            for name, options in classes.items()
        }
        command(**values, **groups)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def _keyword(field: Field[Any], annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=field.default, annotation=annotation)


def run(app: typer.Typer, name: str) -> None:
    """Run a command line; errors of this project become one line on stderr and exit code 1, Ctrl-C exit code 130.

    What the encoding of stdout or stderr cannot hold is written as `\\u2026`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        raise_on_interrupt()
        app(prog_name=name)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except (CocoSearchError, OSError) as error:  # OSError: a file or folder that the user named
        _fail(str(error))
    except UnicodeEncodeError as error:  # a library that takes text was given a path of other bytes
        _fail(f"{error.object}: this name is not valid UTF-8: rename it")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(Exit.ERROR)


def warn_of_pending(index: ReadIndex, collections: Iterable[str], *, exact: bool = False) -> None:
    """Print a line for each collection that does not answer as it should; one that is missing is skipped.

    `exact`: it is searched without the HNSW index.
    """
    for collection in collections:
        try:
            pending = index.pending(collection, exact=exact)
        except CollectionMissing:  # whatever reads from it says so
            continue
        if pending:
            note(f"warning: {pending}")


def warn_of_silent_nodes(index: ReadIndex) -> None:
    """Print a line for each node that does not answer."""
    for url in index.silent_nodes():
        note(f"warning: the node at {url} does not answer")


def note(message: str) -> None:
    """Print a line for a person, beside the results."""
    print(message, file=sys.stderr)


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print `value` as one JSON document, in ASCII if stdout cannot hold every character."""
    typer.echo(to_json(value, indent=indent, ascii_only=not holds_unicode(sys.stdout)))
