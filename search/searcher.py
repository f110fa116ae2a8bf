"""Query the index: a text, a picture, a stored id or a weighted mix of them in, hits out.

The path of a query from the command to the engine:

1. `search/__main__.py`: `text()` parses the command line into parts and options, and `_answer()` prints the hits.
2. `Searcher.search()` is `Searcher.search_many()` for one query: it turns the parts into one direction
   (`search/encoder/queries.py`) and requests a page of images, of captions, or of both.
3. `Pages.read()` (`search/ranking/pages.py`) reads the ranking, deeper than the page if filters and folds require it.
4. `ReadIndex.query()` (`search/index/`) queries the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from search.encoder import Encoder, Truncation
from search.encoder.for_collection import encoder_for
from search.encoder.queries import QueryEncoder
from search.errors import CocoSearchError, CollectionMissing, PhotoError, QueryError
from search.hits import Hits
from search.index import CollectionSpec, ReadIndex, Where, collection_name, only_dataset, open_index
from search.outcomes import map_values
from search.query import Options, Part, for_parts, named_images
from search.ranking.evidence import Evidence, Evidences
from search.ranking.hubness import Correction, Corrections
from search.ranking.pages import PageRequest, Pages
from search.records import KINDS, Hit, Kind, Vectors
from search.records import Image as ImageRecord
from search.settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from search.encoder.images import Pixels


@dataclass(frozen=True, slots=True)
class _Query:
    """A query whose options are valid for the data set.

    `correction` and `evidence` change the scores of images, not those of captions.
    """

    parts: Sequence[Part]
    options: Options
    correction: Correction | None = None
    evidence: Evidence | None = None

    def requests(self, direction: Vectors, leave_out: Sequence[int]) -> list[PageRequest]:
        """Return the request of each kind for the results nearest to a direction, float32 (dim,) of unit length."""
        return [
            PageRequest(
                direction,
                kind,
                self.options,
                tuple(leave_out),
                self.correction if kind == "images" else None,
                self.evidence if kind == "images" else None,
            )
            for kind in self.options.kinds
        ]


class Searcher:
    """Searches one data set of an index with the model that made it.

    The model is loaded at the first query that needs it; a search by id needs none.

    Args:
        index: the index; closed by `close()`, or at the end of a `with` block.
        dataset: the name of the data set; by default the only one of the index, or `coco`.
        encoder: makes the encoder from the specification of a collection. By default the remembered model is loaded.

    Raises:
        SettingsError: the index holds several data sets, none is named, and none is called `coco`.
    """

    def __init__(
        self,
        index: ReadIndex,
        dataset: str | None = None,
        *,
        encoder: Callable[[CollectionSpec], Encoder] | None = None,
    ) -> None:
        self.index = index
        self.dataset = dataset or only_dataset(index)
        self._query_encoder = QueryEncoder(index, self.dataset, encoder or partial(encoder_for, index=index))
        self._pages = Pages(index, self.dataset)
        self._corrections = Corrections(index, self.collection("images"))
        self._evidences = Evidences(index, self.dataset)

    @classmethod
    def open(cls, settings: Settings | None = None, dataset: str | None = None) -> Self:
        """Return a searcher on the index that the settings name, by default those of the environment."""
        index = open_index(settings or Settings())
        try:
            return cls(index, dataset)
        except CocoSearchError:
            index.close()
            raise

    def search(self, parts: Sequence[Part], options: Options | None = None) -> Hits:
        """Return the hits nearest to the weighted sum of the parts, best first; of both kinds, images come first.

        Stored images that the query names are not among the images returned.

        Raises:
            QueryError: there are no parts, they cancel each other out, an id does not exist, or the options cannot be
                answered; see `check`.
            PhotoError: a picture cannot be opened.
            SpecMismatch: the encoder is not the model that made the collection.
            CollectionMissing: the data set does not exist.
        """
        [answer] = self.search_many([(parts, options or Options())])
        if isinstance(answer, CocoSearchError):
            raise answer
        return answer

    def search_many(
        self, queries: Sequence[tuple[Sequence[Part], Options]], following: Sequence[Sequence[Part]] = ()
    ) -> list[Hits | CocoSearchError]:
        """Return the hits of each query as `search` does, or the error of that query alone.

        The queries are encoded together, and those with equal options are sent to the engine in one call. The texts of
        `following`, the parts of queries for the next call, may be encoded at the same time.

        Raises:
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        splits_of = cache(self._splits)  # read once for all queries
        checked = [self._checked(parts, options, splits_of) for parts, options in queries]
        requests = map_values(checked, self._requests)
        self._query_encoder.expect(following)
        return map_values(requests, self._read_pages)

    def _checked(
        self, parts: Sequence[Part], options: Options, splits_of: Callable[[Kind], Collection[str]]
    ) -> _Query | CocoSearchError:
        """Return the query, or its error."""
        try:
            return self._valid_query(parts, for_parts(options, parts), splits_of)
        except QueryError as error:
            return error

    def _requests(self, queries: Sequence[_Query]) -> list[list[PageRequest] | CocoSearchError]:
        """Return the requests of each query, or its error; the model may have to be loaded."""
        directions = self.encode([query.parts for query in queries])
        return [
            direction
            if isinstance(direction, CocoSearchError)
            else query.requests(direction, named_images(query.parts))
            for query, direction in zip(queries, directions, strict=True)
        ]

    def _read_pages(self, queries: Sequence[Sequence[PageRequest]]) -> list[Hits]:
        """Return the hits of each query, from the pages of its requests."""
        pages = iter(self._pages.read([request for requests in queries for request in requests]))
        return [self._hits(requests, list(islice(pages, len(requests)))) for requests in queries]

    def search_vector(
        self, vector: Vectors | CocoSearchError, options: Options, *, leave_out: Sequence[int] = ()
    ) -> Hits:
        """Return the hits nearest to a direction, float32 (dim,) of unit length, without the images `leave_out`.

        The options are used unchanged: call `for_parts` (search/query.py) first if a picture is part of the direction.

        Raises:
            QueryError: the options cannot be answered (see `check`), or the vector is not such a direction.
            CocoSearchError: `vector` is this error, as `encode` returns it for a query that it cannot encode.
            CollectionMissing: the data set does not exist.
        """
        if isinstance(vector, CocoSearchError):
            raise vector
        self._query_encoder.check_direction(vector)
        [hits] = self._read_pages([self._valid_query((), options, self._splits).requests(vector, leave_out)])
        return hits

    def count(self, kind: Kind, options: Options, *, leave_out: Sequence[int] = ()) -> int | None:
        """Return how many images (besides `leave_out`) or captions pass the filter of the options.

        None if the filter has words that the index cannot look up, such as numbers.
        """
        return self._pages.count(kind, options, tuple(leave_out))

    def _hits(self, requests: Sequence[PageRequest], pages: Sequence[Sequence[Hit]]) -> Hits:
        for request, page in zip(requests, pages, strict=True):
            for rank, hit in enumerate(page, start=request.options.offset + 1):
                hit.rank = rank
        return Hits(chain.from_iterable(pages), partial(self._open_photo, self._query_encoder.spec))

    def _open_photo(self, spec: CollectionSpec, hit: Hit) -> Image.Image:
        """Return the photo of a hit. The record of an image names the file, so the index may be closed."""
        if isinstance(hit.record, ImageRecord):
            return _photo_of(hit.record, spec)
        return self.photo(hit.image_id)

    def text(self, text: str, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> Hits:
        """Return the `k` images or captions nearest to a text, best first. Raises the errors of `search`."""
        return self.search([Part(text=text)], Options(k=k, to=to, where=where))

    def image(
        self, image: Image.Image | Path | str, k: int = 10, *, to: Kind = "images", where: Where | None = None
    ) -> Hits:
        """Return the `k` images or captions nearest to a picture, best first. Raises the errors of `search`."""
        return self.search([Part(image=image)], Options(k=k, to=to, where=where))

    def image_id(self, image_id: int, k: int = 10, *, to: Kind = "images", where: Where | None = None) -> Hits:
        """Return the `k` images or captions nearest to a stored image, best first, without the image itself.

        Needs no model. Raises the errors of `search`.
        """
        return self.search([Part(image_id=image_id)], Options(k=k, to=to, where=where))

    def encode(self, queries: Sequence[Sequence[Part]]) -> list[Vectors | CocoSearchError]:
        """Return the direction of each query, float32 (dim,) of unit length, or the error of that query alone.

        Raises:
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        return self._query_encoder.encode(queries)

    def truncations(self, queries: Sequence[Sequence[Part]]) -> list[dict[int, Truncation]]:
        """Return for each query which of its texts are longer than the model reads, by the 0-based number of the part.

        The rest of such a text has no influence on the results.

        Raises:
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        return self._query_encoder.truncations(queries)

    def prepare(self, image: Image.Image | BinaryIO | Path) -> Pixels | Image.Image:
        """Return what the model needs of a picture, made as `ingest run` makes it, for use as a part of a query.

        Files are prepared by `one_at_a_time`. The result is small, unless the model has no `preparation`: then it is
        the picture itself.

        Raises:
            PhotoError: it cannot be opened.
        """
        return self._query_encoder.prepare(image)

    def photo(self, image_id: int, folder: Path | None = None) -> Image.Image:
        """Return the photo of a stored image, from `folder`, by default the remembered one.

        Raises:
            PhotoError: it cannot be opened, or no image of this id is stored.
        """
        if image_id not in (images := self.images([image_id])):
            raise PhotoError(f"image {image_id} is not in {self.collection('images')}")
        return _photo_of(images[image_id], self._query_encoder.spec, folder)

    def photo_file(self, image: ImageRecord, folder: Path | None = None) -> Path:
        """Return the file of a stored image's photo, in `folder`, by default the remembered one.

        Raises:
            PhotoError: it does not exist, or is outside the folder.
        """
        from search.photos import find_photo

        spec = self._query_encoder.spec
        return find_photo(folder or spec.photo_folder, image.file, follow_links=spec.follow_links)

    def images(self, ids: Sequence[int]) -> dict[int, ImageRecord]:
        """Return the stored images that have these ids, by id."""
        records = self.index.retrieve(self.collection("images"), list(ids)).records if ids else []
        return {record.id: record for record in records if isinstance(record, ImageRecord)}

    @property
    def encoder(self) -> Encoder:
        """The model that made this data set, loaded at the first use."""
        return self._query_encoder.model

    def collection(self, kind: Kind) -> str:
        """Return the name of the collection of the images or of the captions."""
        return collection_name(self.dataset, kind)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of records that the data set has: a data set of photos alone has no captions."""
        stored = self.index.collections()
        names: dict[Kind, str] = {kind: self.collection(kind) for kind in KINDS}
        return [kind for kind, name in names.items() if name in stored and self.index.count(name)]

    def check(self, options: Options) -> None:
        """Refuse options that cannot be answered, before a model is loaded for them.

        Raises:
            QueryError: a split does not exist, or images cannot be scored as the options say.
            CollectionMissing: the data set does not exist.
        """
        self._valid_query((), options, self._splits)

    def _valid_query(
        self, parts: Sequence[Part], options: Options, splits_of: Callable[[Kind], Collection[str]]
    ) -> _Query:
        """Return a query whose options are valid for the data set. Raises the errors of `check`."""
        splits = (options.where or Where()).splits or ()
        known = [name for kind in options.kinds for name in splits_of(kind)] if splits else []
        if unknown := [split for split in splits if split not in known]:
            names = " and ".join(map(self.collection, options.kinds))
            have = "has" if len(options.kinds) == 1 else "have"
            only = f", only {', '.join(dict.fromkeys(known))}" if known else ""
            raise QueryError(f"{names} {have} no split {unknown[0]!r}{only}")
        if "images" not in options.kinds:
            return _Query(parts, options)
        if options.evidence is not None:
            return _Query(parts, options, evidence=self._evidences.of(options.evidence))
        return _Query(parts, options, correction=self._corrections.of(options.hubness))

    def _splits(self, kind: Kind) -> Collection[str]:
        try:
            return self.index.spec(self.collection(kind)).splits
        except CollectionMissing:
            if self.collection("images") not in self.index.collections():
                raise
            return ()  # a data set may consist of photos alone

    def close(self) -> None:
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _photo_of(image: ImageRecord, spec: CollectionSpec, folder: Path | None = None) -> Image.Image:
    from search.photos import open_photo

    return open_photo(folder or spec.photo_folder, image.file, follow_links=spec.follow_links)
