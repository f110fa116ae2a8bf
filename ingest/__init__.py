"""Fill the index: annotations and photos in, two collections of vectors out."""

from __future__ import annotations


def main() -> None:
    """Run the command line, as the console script `coco-ingest`."""
    from search.interrupt import run_command

    run_command("ingest.__main__")
