"""Define what the three commands share: options that name the index, groups of options, and error handling."""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import Field, fields, is_dataclass
from enum import IntEnum
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, get_type_hints

import typer

from search.cli.application import program
from search.cli.interrupt import INTERRUPTED, raise_on_interrupt
from search.errors import CocoSearchError, CollectionMissing
from search.text import holds_unicode, shown, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search.index import ReadIndex

INDEX, OUTPUT = "Index", "Output"  # sections of the help

PathOption = Annotated[
    Path | None,
    typer.Option(
        "--path",
        help="Folder of the embedded index (default: $INDEX_PATH or ./index)",
        show_default=False,
        rich_help_panel=INDEX,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="A Qdrant server, such as http://localhost:6333 (default: $QDRANT_URL)",
        rich_help_panel=INDEX,
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Name of the data set (default: the only one in the index, or coco)",
        rich_help_panel=INDEX,
    ),
]
TextModelOption = Annotated[
    str | None,
    typer.Option(
        "--text-model",
        metavar="NAME[@REVISION]|DIR",
        help="Another model that embeds texts in the same space, such as one for other languages",
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model, if it needs that")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout", rich_help_panel=OUTPUT)]


class Exit(IntEnum):
    """Exit codes of all commands; Typer itself exits with 2 on wrong usage."""

    DONE = 0
    ERROR = 1
    PARTLY = 3  # finished, but some inputs failed
    INTERRUPTED = INTERRUPTED


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with each parameter that is a dataclass replaced by the fields of that dataclass.

    Typer reads the signature of a function, so the returned function has the expanded signature and builds the
    dataclasses when it is called. The `PANEL` of a dataclass is the section of the help that lists its options, except
    those that name another.
    """
    hints = get_type_hints(command, include_extras=True)
    classes = {name: hint for name, hint in hints.items() if is_dataclass(hint) and isinstance(hint, type)}
    plain = [parameter for name, parameter in inspect.signature(command).parameters.items() if name not in classes]
    expanded_parameters = [parameter.replace(annotation=hints[parameter.name]) for parameter in plain]
    for options in classes.values():
        types = get_type_hints(options, include_extras=True)
        panel: str = vars(options)["PANEL"]
        expanded_parameters += [_keyword(field, _in_panel(types[field.name], panel)) for field in fields(options)]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        groups = {
            name: options(**{field.name: values.pop(field.name) for field in fields(options)})
            for name, options in classes.items()
        }
        command(**values, **groups)

    wrapper.__signature__ = inspect.Signature(expanded_parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded_parameters}
    return wrapper


def _in_panel(annotation: Any, panel: str) -> Any:
    declared = copy(annotation.__metadata__[0])
    declared.rich_help_panel = declared.rich_help_panel or panel
    return Annotated[annotation.__origin__, declared]


def _keyword(field: Field[Any], annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=field.default, annotation=annotation)


def run(app: typer.Typer, package: str) -> None:
    """Run the command line of a package.

    Report errors of this project as one line on stderr and exit code 1, Ctrl-C as exit code 130. Characters that the
    encoding of stdout or stderr lacks are written as `\\u2026`.
    """
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None if the shell closed it (`>&-`)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        raise_on_interrupt()
        app(prog_name=program(package))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except CocoSearchError as error:
        _fail(str(error))
    except OSError as error:  # a file or folder that the user named
        file = error.filename2 or error.filename  # of a file that is renamed, the new name
        _fail(f"{file}: {error.strerror}" if file and error.strerror else str(error))
    except MemoryError as error:
        _fail(f"there is not enough memory: {error or 'try smaller batches'}")
    except UnicodeEncodeError as error:  # a path that is not valid UTF-8 reached a library that encodes it
        _fail(f"{error.object}: this file name is not valid UTF-8: rename the file")


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - closed at exit


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(Exit.ERROR)


def warn_of_pending(index: ReadIndex, collections: Iterable[str], *, exact: bool = False) -> None:
    """Print a warning for each collection that is indexing or degraded; skip one that does not exist.

    `exact`: the collections are searched without the HNSW index.
    """
    for collection in collections:
        try:
            pending = index.pending(collection, exact=exact)
        except CollectionMissing:  # reported by the first read from it
            continue
        if pending:
            note(f"warning: {pending}")


def warn_of_silent_nodes(index: ReadIndex) -> None:
    """Print a warning for each node that does not answer."""
    for url in index.silent_nodes():
        note(f"warning: the node at {url} does not answer")


def note(message: str) -> None:
    """Print a message to stderr; stdout is for results."""
    print(message, file=sys.stderr)


@contextmanager
def loading(model: str, *, after: float = 1.0) -> Iterator[None]:
    """Print to stderr what is being loaded if the block takes longer than `after` seconds."""
    timer = Timer(after, note, [f"loading the model {shown(model)}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def print_json(value: object, *, indent: int | None = None) -> None:
    """Print `value` as one JSON document, in ASCII if stdout cannot hold every character."""
    print(to_json(value, indent=indent, ascii_only=not holds_unicode(sys.stdout)), flush=True)
