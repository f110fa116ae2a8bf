"""Answer the requests of the page and the API from one data set of an index; safe to use from many threads."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from threadpoolctl import ThreadpoolController

from search.encoder import Encoder, Truncation
from search.errors import CocoSearchError, NotFound, PhotoError
from search.index import Where, short_model_name
from search.query import Options, Part, for_parts, named_images
from search.records import KINDS, Caption, Hit, Image, Vectors
from search.searcher import Searcher
from search.web.batching import Batcher
from search.web.pictures import Jpeg, Photos, Uploads
from search.web.schemas import (
    MAX_OFFSET,
    Collection,
    Collections,
    Health,
    ImageRecord,
    Ready,
    Result,
    Sample,
    SearchResults,
    Truncated,
    WebPart,
    WebQuery,
)

Truncations = dict[int, Truncation]
Direction: TypeAlias = "tuple[Vectors | CocoSearchError, Truncations]"
SEARCH_RESULTS = TypeAdapter(SearchResults)

MAX_EXAMPLES = 6
EXAMPLE_LENGTH = range(15, 46)  # characters: about what a person would type
SAMPLED_IMAGES = 20_000  # those with the lowest ids
SAMPLES_KEPT = 16  # filters whose ids are remembered
FULL_SIZE = 4096  # pixels, the longer side; larger photos are scaled down to it


@dataclass(frozen=True, slots=True)
class Encoded:
    """The parts of a query, and its direction, if that needed the model."""

    parts: Sequence[Part]
    direction: Direction | None = None


class Gallery:
    """One data set, its photos (in `folder`, or where ingestion read them) and the pictures that users upload.

    `shared`: other commands may use the model, since it is the one that made the data set, for photos and for texts.

    `warm_up` loads what would make the first requests slow, except for the model if texts can be encoded without it;
    `load_model` does that.
    """

    def __init__(self, searcher: Searcher, folder: Path | None = None, *, shared: bool = True) -> None:
        self.searcher = searcher
        self.index = searcher.index
        self.dataset = searcher.dataset
        self._folder, self._shared = folder, shared
        self._batcher = Batcher(self._encode_batch)
        self._blas = ThreadpoolController()
        self._one_picture = Lock()  # in full size it takes much memory, if the model has no preparation
        self._uploads = Uploads(self._encode_picture)
        self._ready_for_pictures = False
        self._sampled_ids = lru_cache(SAMPLES_KEPT)(self._read_sampled_ids)

    def warm_up(self) -> None:
        """Load what texts need, the examples and the shards of every data set, so that no two threads open one shard.

        Raises:
            CocoSearchError: the model, a shard or the data set cannot be opened.
        """
        if self._takes_texts:
            self._encode_many([[Part(text="a photo")]])
        for collection in self.index.collections():
            self.index.count(collection)
        self.examples  # noqa: B018
        self._photos  # noqa: B018

    def load_model(self) -> None:
        """Load the whole model, which pictures need. Raises CocoSearchError if it cannot be loaded."""
        self.searcher.encoder.preparation  # noqa: B018
        self._ready_for_pictures = True

    def ready_model(self) -> Encoder | None:
        """Return the model, for the commands that read the index through this server; None until it is loaded."""
        return self.searcher.encoder if self._shared and self._ready_for_pictures else None

    def close(self) -> None:
        """End the encoder's thread and close the index."""
        self._batcher.close()
        self.searcher.close()

    async def encode(self, query: WebQuery) -> Encoded:
        """Return the parts of a query and, if it has texts, its direction, encoded together with concurrent queries.

        Raises:
            NotFound: it names a picture that does not exist.
            QueryError: a part is not valid.
            CocoSearchError: the model cannot be used, or the index cannot be read.
        """
        query.options(Options())  # refuse what is not valid before it is encoded
        parts = [self._part(part) for part in query.parts]
        if any(part.text is not None for part in parts):
            return Encoded(parts, await self._batcher.run(parts))
        return Encoded(parts)

    def search(self, query: WebQuery, encoded: Encoded) -> bytes:
        """Return the results of a query as JSON: `SearchResults`.

        Raises:
            NotFound: it names an image or caption that does not exist.
            QueryError: it is not valid for another reason.
        """
        options = query.options(Options())
        k = min(options.k, query.end - options.offset)
        options = replace(options, k=k + 1)  # one more, to know whether there are further results
        options = for_parts(options, encoded.parts)
        direction, truncations = encoded.direction or self._encode_many([encoded.parts])[0]
        if isinstance(direction, CocoSearchError):
            raise direction
        named = named_images(encoded.parts)
        hits = self.searcher.search_vector(direction, options, leave_out=named)
        results = SearchResults(
            results=self._results(hits[:k]),
            more=len(hits) > k and query.offset + k <= query.last_offset,
            total=self.searcher.count(query.to, options, leave_out=named) if query.total else None,
            truncated=[Truncated(part=part, read=each.read, given=each.given) for part, each in truncations.items()],
        )
        return SEARCH_RESULTS.dump_json(results)

    def upload(self, content: bytes) -> str:
        """Encode a picture and return the token that names it in queries. Raises PhotoError if it cannot be opened."""
        return self._uploads.add(content)

    def image(self, image_id: int) -> ImageRecord:
        """Return the record of a stored image. Raises NotFound."""
        return _image_record(self._stored_image(image_id))

    def sample(
        self, seed: int, k: int, offset: int = 0, *, splits: Sequence[str] = (), contains: str | None = None
    ) -> Sample:
        """Return `k` images in a random order, after the first `offset`.

        They are the same ones for the same seed and filter, as long as the collection has the same size.

        Raises:
            QueryError: a split does not exist, or the words to filter by cannot be parsed.
        """
        where = Where(splits=tuple(splits) or None, contains=contains)
        self.searcher.check(Options(where=where, hubness=0.0))  # 0: a sample needs no scores
        collection = self.searcher.collection("images")
        order = np.random.default_rng(seed).permutation(self._sampled_ids(where, self.index.count(collection)))
        ids = [int(image_id) for image_id in order[offset : offset + k]]
        stored = [each for each in self.index.retrieve(collection, ids).records if isinstance(each, Image)]
        return Sample(
            images=[_image_record(each) for each in stored],
            more=offset + k < min(len(order), MAX_OFFSET + 1),
            total=self.searcher.count("images", Options(where=where)),
        )

    def jpeg(self, image_id: int, size: int | None, known_tag: str | None) -> Jpeg:
        """Return the photo of a stored image; see `Photos.jpeg`.

        Raises:
            NotFound: the image is not stored, or its photo cannot be opened.
        """
        with self._photo_of(image_id) as file:
            return self._photos.jpeg(file, size or FULL_SIZE, known_tag)

    def original(self, image_id: int) -> tuple[str, bytes]:
        """Return the name and the content of the photo file of a stored image.

        Raises:
            NotFound: the image is not stored, or its photo cannot be read.
        """
        with self._photo_of(image_id) as file:
            return PurePosixPath(file).name, self._photos.original(file)

    def collections(self) -> Collections:
        """Return the current state of the collections: of images, and of captions, if there is one."""
        stored = self.index.collections()
        names = [self.searcher.collection(kind) for kind in KINDS]
        infos = [self.index.info(name) for name in names if name in stored]
        place = self.index.place if "://" in self.index.place else str(Path(self.index.place).resolve())
        return Collections(
            dataset=self.dataset,
            place=place,
            collections=[Collection(**info.as_json(), model_name=short_model_name(info.spec.model)) for info in infos],
        )

    def health(self) -> Health:
        """Check that the index answers. Raises IndexFailure if it does not."""
        images = self.index.count(self.searcher.collection("images"))
        ready = Ready(texts=self._takes_texts, pictures=self._ready_for_pictures)
        return Health(status="ok", dataset=self.dataset, images=images, ready=ready)

    @cached_property
    def examples(self) -> list[str]:
        """A few short captions of different images; the same ones at every start. Empty if texts cannot be encoded."""
        if not self._takes_texts or "captions" not in self.searcher.kinds:
            return []
        batch = next(self.index.scan(self.searcher.collection("captions")), None)
        captions = [record for record in batch.records if isinstance(record, Caption)] if batch else []
        short = [caption for caption in captions if _is_example(caption.text.strip())]
        random.Random(0).shuffle(short)
        one_each = {caption.image_id: caption.text.strip() for caption in short}
        return list(one_each.values())[:MAX_EXAMPLES]

    def _read_sampled_ids(self, where: Where, points: int) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """Return the ids that random samples are drawn from; of a very large data set, only the first ones.

        `points`, the size of the collection, is part of the cache key: another process may fill a server meanwhile.
        """
        looked_up, words = where.divided()
        ids: list[int] = []
        read = 0
        for batch in self.index.scan(self.searcher.collection("images"), where=looked_up):
            images = [record for record in batch.records if isinstance(record, Image)]
            ids += [image.id for image in images if words.match(image)]
            read += len(images)
            if read >= SAMPLED_IMAGES:
                break
        return np.array(ids, dtype=np.int64)

    @cached_property
    def _takes_texts(self) -> bool:
        return not self.index.spec(self.searcher.collection("images")).imported

    @cached_property
    def _photos(self) -> Photos:
        spec = self.index.spec(self.searcher.collection("images"))
        return Photos(self._folder or spec.photo_folder, follow_links=spec.follow_links)

    def _part(self, part: WebPart) -> Part:
        if part.picture is None:
            return part.part()
        vector = self._uploads.vector(part.picture)
        if vector is None:
            raise NotFound("the server no longer has this picture: upload it again")
        return Part(vector=vector, weight=part.weight)

    def _encode_batch(self, queries: Sequence[Sequence[Part]]) -> list[Direction]:
        if len(queries) == 1:
            return self._encode_many(queries)
        # More threads would wait for the processors of other requests. The limit is that of the whole process.
        with self._blas.limit(limits=1, user_api="blas"):
            return self._encode_many(queries)

    def _encode_many(self, queries: Sequence[Sequence[Part]]) -> list[Direction]:
        """Return the direction of each query, float32 (dim,), or its error, and its truncations."""
        directions = self.searcher.encode(queries)
        encoded = [
            parts for parts, each in zip(queries, directions, strict=True) if not isinstance(each, CocoSearchError)
        ]
        truncations = iter(self.searcher.truncations(encoded))
        return [(each, {} if isinstance(each, CocoSearchError) else next(truncations)) for each in directions]

    def _encode_picture(self, content: bytes) -> Vectors:
        """Return the vector float32 (dim,) of a picture file. Raises PhotoError if it cannot be opened."""
        self.load_model()  # before the one thread that decodes pictures would wait for it
        with self._one_picture:
            [(vector, _)] = self._encode_many([[Part(image=self.searcher.prepare(io.BytesIO(content)))]])
        if isinstance(vector, CocoSearchError):
            raise vector
        return vector

    @contextmanager
    def _photo_of(self, image_id: int) -> Iterator[str]:
        """Yield the file of a stored image. Raises NotFound, also for a PhotoError within the block."""
        file = self._stored_image(image_id).file
        try:
            yield file
        except PhotoError as error:
            raise NotFound(f"the photo of image {image_id}, {file}: {error}") from error

    def _stored_image(self, image_id: int) -> Image:
        collection = self.searcher.collection("images")
        records = self.index.retrieve(collection, [image_id]).records
        if not records or not isinstance(records[0], Image):
            raise NotFound(f"no image {image_id} in {collection}")
        return records[0]

    def _results(self, hits: Sequence[Hit]) -> list[Result]:
        """Return hits with all captions of their images."""
        ids = list(dict.fromkeys(hit.image_id for hit in hits if isinstance(hit.record, Caption)))
        batch = self.index.retrieve(self.searcher.collection("images"), ids).records if ids else []
        images = {record.id: record for record in batch if isinstance(record, Image)}
        images |= {hit.id: hit.record for hit in hits if isinstance(hit.record, Image)}
        return [_result(hit, images.get(hit.image_id)) for hit in hits]


def _image_record(image: Image) -> ImageRecord:
    return ImageRecord(
        id=str(image.id),
        split=image.split,
        file=image.file,
        url=image.url,
        captions=list(image.captions),
        picture=_photo_path(image),
    )


def _is_example(text: str) -> bool:
    return len(text) in EXAMPLE_LENGTH and not text.isupper()


def _result(hit: Hit, image: Image | None) -> Result:
    record = hit.record
    assert record is not None
    captions = list(image.captions) if image else []
    text = record.text if isinstance(record, Caption) else hit.caption or ""
    return Result(
        rank=hit.rank,
        score=round(hit.score, 6),
        cosine=round(hit.cosine, 6),
        caption_cosine=round(hit.evidence.score, 6) if hit.evidence else None,
        kind="caption" if isinstance(record, Caption) else "image",
        id=str(hit.id),
        image_id=str(hit.image_id),
        split=record.split,
        text=text,
        captions=captions or ([text] if text else []),
        file=image.file if image else None,
        url=image.url if image else None,
        picture=_photo_path(image) if image else f"/pictures/{hit.image_id}?v=0",
        also=[str(other.id) for other in hit.also],
        also_images=[str(other.image_id) for other in hit.also],
    )


def _photo_path(image: Image) -> str:
    """Return the path of a photo, which changes whenever the photo does, so that browsers can cache it forever."""
    return f"/pictures/{image.id}?v={version(image.photo.blake2b) if image.photo else 0}"


def version(tag: str) -> str:
    """Return the part of a photo's hash that is in its path."""
    return tag.strip('"')[:12]
