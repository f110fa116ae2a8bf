"""The guided tour of `python -m ingest demo`: render, ingest, search, evaluate, and write a page to look at."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from ingest.demo import MODEL
from ingest.demo.scenes.render import DATASET, render
from ingest.models import Model
from ingest.options import Embedding
from search.cli.terminal import Style, table
from search.errors import CocoSearchError
from search.index import CollectionSpec, collection_name, open_for_writing
from search.records import KINDS
from search.searcher import Searcher
from search.settings import Settings
from search.sheet import Section, contact_sheet, origin

QUERIES = (
    "a snowman under a full moon",
    "a whale and a lighthouse at sunset",
    "a rocket and a flying saucer in space",
)
HITS = 5

__all__ = ["DATASET", "MODEL", "draw", "drop_old_collections", "print_command", "search_and_evaluate"]


def draw(folder: Path, images: int) -> Path:
    """Draw the data set into `folder`, with a progress bar, and return its annotation file.

    Raises:
        CocoSearchError: the folder cannot be written.
    """
    with tqdm(unit=" images", desc="drawing", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            return render(folder, images, progress=progress)
        except OSError as error:
            raise CocoSearchError(f"cannot draw into {folder}: {error.strerror}: choose another --out") from error


def drop_old_collections(settings: Settings, embedding: Embedding, annotations: Path) -> None:
    """Drop the collections of an earlier demo with another number of images, or with another model."""
    sha256 = hashlib.sha256(annotations.read_bytes()).hexdigest()
    with closing(open_for_writing(settings)) as index:
        stored = index.collections()
        for collection in (collection_name(DATASET, kind) for kind in KINDS):
            if collection in stored:
                spec = index.spec(collection)
                if spec.annotations != sha256 or spec.weights != _weights(embedding, spec):
                    index.drop(collection)


def _weights(embedding: Embedding, spec: CollectionSpec) -> str:
    """Return the hash of the model's weights; the model is loaded only if it was not before."""
    model = Model(embedding, spec)
    known = model.known()
    return known.weights if known else model.load()[0].weights


def search_and_evaluate(settings: Settings, place: Sequence[str], out: Path) -> None:
    """Search and evaluate the demo's data set, and write `out`/index.html and `out`/report/report.html.

    Raises:
        CocoSearchError: the evaluation failed, or the page cannot be written.
    """
    with Searcher.open(settings, DATASET) as searcher:
        sections = _search(searcher, place)
    scores = _evaluate(place, out / "report")  # another process, which opens the index itself
    with Searcher.open(settings, DATASET) as searcher:
        about = origin(searcher.index.spec(searcher.collection("images")))
        sheet = contact_sheet("coco-search: what the demo found", sections, searcher.photo, about=about, foot=scores)
    page = out / "index.html"
    try:
        page.write_text(sheet, encoding="utf-8")
    except OSError as error:
        raise CocoSearchError(f"cannot write {page}: {error.strerror}") from error


def print_command(package: str, *arguments: str) -> None:
    """Print the command whose output follows."""
    print(f"\n$ python -m {package} {shlex.join(arguments)}", flush=True)


def _search(searcher: Searcher, place: Sequence[str]) -> list[Section]:
    """Search three times by text and once by picture, from images to captions; print the results."""
    sections = []
    for query in QUERIES:
        print_command("search", "text", query, "-k", str(HITS), *place)
        sections.append(Section(query, searcher.text(query, HITS)))
        print(table(sections[-1].hits, Style.of(sys.stdout)))
    first = sections[0].hits[0].id
    print_command("search", "image", str(first), "-k", str(HITS), *place)
    sections.append(Section(f"image {first}", searcher.image_id(first, HITS, to="captions"), picture=first))
    print(table(sections[-1].hits, Style.of(sys.stdout)))
    return sections


def _evaluate(place: Sequence[str], out: Path) -> str:
    print_command("eval", "run", "--out", os.path.relpath(out), *place)
    command = [sys.executable, "-m", "eval", "run", "--out", str(out), "--force", *place, "--dataset", DATASET]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(completed.stdout, end="", flush=True)
    if completed.returncode:
        raise CocoSearchError(f"the evaluation ended with exit code {completed.returncode}: see above")
    return completed.stdout
