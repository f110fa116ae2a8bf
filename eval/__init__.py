"""Evaluate retrieval: Recall@k and ranks, in both directions, of an index or of arrays.

from eval import Embeddings, measure
from search import Searcher

with Searcher.open() as searcher:
    metrics = measure(searcher, split="test")
print(metrics.scores["text-to-image"]["recall@1"])
metrics = measure(Embeddings(image_vectors, caption_vectors, image_of))
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would take longer than the rest of this file

if TYPE_CHECKING:
    from eval.notebook import Embeddings, measure

__all__ = ["Embeddings", "measure"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from eval import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line, as the console script `coco-eval`."""
    from search.cli.interrupt import run_command

    run_command("eval.__main__")
