"""Retrieval measured on the index: Recall@k and ranks over the splits of the data set, in both directions."""

from __future__ import annotations


def main() -> None:
    """Run the command line, as the console script `coco-eval`."""
    from search.interrupt import run_command

    run_command("eval.__main__")
