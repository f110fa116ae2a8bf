"""Render hits as a contact sheet: one HTML file with the pictures inside, to look at, send or print."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2
import PIL.Image

from search.errors import CocoSearchError, PhotoError
from search.index import CollectionSpec, short_model_name
from search.query import Options, describe_options
from search.records import Hit

THUMBNAIL = 360  # pixels, the longer side
NOTEBOOK_SIDE = 180  # likewise, in a notebook
OpenPhoto = Callable[[int], PIL.Image.Image]
"""Opens the photo of an image id; raises PhotoError if that fails."""


@dataclass(frozen=True, slots=True)
class Section:
    """One query and its hits; `picture` is the id of the image that was the query, if any."""

    query: str
    hits: Sequence[Hit]
    picture: int | None = None


def contact_sheet(
    title: str, sections: Sequence[Section], open_photo: OpenPhoto, *, about: str = "", foot: str = ""
) -> str:
    """Return the page, with the pictures inside it as JPEG, `about` below the title, and `foot` as preformatted text.

    A photo that cannot be opened is replaced by the reason.
    """
    thumbnails = Thumbnails(open_photo)

    def photo(image_id: int) -> Thumbnail | str:
        try:
            return thumbnails.of(image_id)
        except PhotoError as error:
            return str(error)

    template = _environment().get_template("sheet.html.j2")
    return template.render(title=title, about=about, sections=sections, photos=photo, foot=foot)


def notebook_sheet(hits: Sequence[Hit], total: int, open_photo: Callable[[Hit], PIL.Image.Image] | None) -> str:
    """Return hits as a part of an HTML page: small photos, captions and scores; `total` is the number of all hits.

    A photo that cannot be opened is replaced by the reason.
    """

    def photo(hit: Hit) -> Thumbnail | str:
        if open_photo is None:
            return "the photo is not available"
        try:
            return Thumbnails(lambda _: open_photo(hit), NOTEBOOK_SIDE, quality=70).of(hit.image_id)
        except CocoSearchError as error:
            return str(error)

    template = _environment().get_template("hits.html.j2")
    return template.render(hits=hits, total=total, photos=photo, side=NOTEBOOK_SIDE)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cosine": "{:.3f}".format}
    return environment


def origin(spec: CollectionSpec, options: Options | None = None) -> str:
    """Return a line about where hits come from: the data set, the model, today's date, and the options of the query."""
    model = short_model_name(spec.model)
    if spec.text_model:
        model += f" (texts: {short_model_name(spec.text_model.model)})"
    today = date.today()
    parts = [f"data set {spec.dataset}", f"model {model}", f"{today.day} {today:%B %Y}"]
    return " · ".join([*parts, *([describe_options(options)] if options else [])])


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG as a `data:` address, and its width and height in pixels."""

    uri: str
    width: int
    height: int


class Thumbnails:
    """Small copies of photos by image id, each photo opened once; `side` is the longer side in pixels."""

    def __init__(self, open_photo: OpenPhoto, side: int = THUMBNAIL, quality: int = 80) -> None:
        self._open, self._side, self._quality = open_photo, side, quality
        self._copies: dict[int, Thumbnail] = {}

    def of(self, image_id: int) -> Thumbnail:
        """Return the small copy of a photo. Raises PhotoError if it cannot be opened."""
        if image_id not in self._copies:
            photo = self._open(image_id)
            photo.thumbnail((self._side, self._side))
            stream = io.BytesIO()
            photo.save(stream, "JPEG", quality=self._quality, optimize=True)
            uri = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
            self._copies[image_id] = Thumbnail(uri, photo.width, photo.height)
        return self._copies[image_id]
