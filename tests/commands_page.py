"""docs/commands.md: the help of every command. `make docs` writes it, and test_docs.py fails when it is stale."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from search.cli.application import HELP_OPTIONS

FILE = Path(__file__).resolve().parents[1] / "docs/commands.md"
REGENERATE = "make docs"
WIDTH = 100

INTRODUCTION = f"""\
# Commands

The help of every command, as `--help` prints it. This page is generated: `{REGENERATE}` writes it.

Installed as a package (`pip install .`), the three are also `coco-ingest`, `coco-search` and `coco-eval`. These
complete their commands and options with the Tab key after `coco-search --install-completion`, and likewise for the
other two, in bash, zsh, fish and PowerShell. `--version` prints the version.

- **Which index**: `--path DIR` is an embedded index, `--url URL` a Qdrant server; a command takes one of them.
- **Which data set**: `--dataset NAME`. Without it, a command uses the index's only data set, or `coco` if it holds
  several; `ingest run` uses the name in the annotation file, and `ingest status` lists all data sets.
- **Output**: results go to stdout, progress and warnings to stderr.

| variable | |
|---|---|
| `INDEX_PATH` | folder of the embedded index; `./index` if unset |
| `QDRANT_URL` | a Qdrant server; several nodes of a cluster with commas between them. `--path` takes precedence |
| `QDRANT_API_KEY` | the server's key |
| `QDRANT_GRPC_PORT` | the server's gRPC port; by default the one after the port of the URL |
| `QDRANT_TIMEOUT` | seconds that a request may take; 30 if unset |
| `QDRANT_API_KEY_FROM`, `QDRANT_API_KEY_TO` | the keys of the two ends of `ingest copy`, if they differ |
| `QDRANT_GRPC_PORT_FROM`, `QDRANT_GRPC_PORT_TO` | likewise, the gRPC ports |

| exit code | |
|---|---|
| 0 | done |
| 1 | failed, with one line on stderr that begins with `error:` |
| 2 | wrong usage |
| 3 | finished, but some photos, captions or queries failed; they are listed |
| 130 | stopped by Ctrl-C |
"""

PAGES = {  # what a command is about
    "ingest run": "ingestion",
    "ingest demo": "ingestion",
    "ingest download": "ingestion",
    "ingest drop": "storage",
    "ingest status": "storage",
    "ingest copy": "transfer",
    "ingest backup": "transfer",
    "ingest restore": "transfer",
    "ingest export": "transfer",
    "ingest import": "transfer",
    "search text": "searching",
    "search image": "searching",
    "search batch": "searching",
    "search serve": "web",
    "eval run": "evaluation",
    "eval tune": "evaluation",
    "eval compare": "evaluation",
    "eval bench ingest": "ingestion",
    "eval bench eval": "evaluation",
    "eval bench search": "costs",
    "eval bench scale": "costs",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield the name of each command, such as "ingest run", and the command; groups first."""
    for package in ("ingest", "search", "eval"):
        yield from _below(package, typer.main.get_command(importlib.import_module(f"{package}.__main__").app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for inner, below in getattr(command, "commands", {}).items():
        yield from _below(f"{name} {inner}", below)


def help_of(name: str, command: Any) -> str:
    """Return a command's help as plain text, the same on every terminal."""
    context = command.context_class(
        command, info_name=f"python -m {name}", terminal_width=WIDTH, max_content_width=WIDTH, **HELP_OPTIONS
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def page() -> str:
    """Return the text of docs/commands.md."""
    sections = [INTRODUCTION]
    for name, command in commands():
        level = "##" if " " not in name else "###"
        about = f"See [{PAGES[name]}]({PAGES[name]}.md).\n\n" if name in PAGES else ""
        sections.append(f"{level} python -m {name}\n\n{about}```\n{help_of(name, command)}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(f"wrote {FILE}")
