"""Ingest annotations and photos into the index, as two collections of vectors."""

from __future__ import annotations


def main() -> None:
    """Run the command line, as the console script `coco-ingest`."""
    from search.cli.interrupt import run_command

    run_command("ingest.__main__")
