"""Hits as a contact sheet: one HTML file with the pictures inside, to look at, send or print."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import PIL.Image

from search.errors import PhotoError
from search.records import Caption, Hit, Image

THUMBNAIL = 360  # pixels, the longer side
OpenPhoto = Callable[[int], PIL.Image.Image]
"""Opens the photo of an image id; raises PhotoError where it cannot."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6b6b70; --paper: #fafafa; --card: #fff; --line: #e3e3e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f2f2f4; --soft: #a3a3aa; --paper: #151517; --card: #202023; --line: #34343a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 2rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; display: flex; gap: .9rem; align-items: center; }
h2 img { height: 5.5rem; border-radius: 6px; }
p { margin: .25rem 0; color: var(--soft); }
pre { overflow-x: auto; padding: 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  font-size: .8rem; line-height: 1.5; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  break-inside: avoid; }
li > img, .lost { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: #8883; }
.lost { display: grid; place-content: center; padding: 1rem; color: var(--soft); text-align: center; }
.about { padding: .6rem .75rem .75rem; font-size: .9rem; }
.about ul { list-style: none; margin: .6rem 0 0; padding: 0; font-size: .85rem; }
.about li { display: flex; gap: .6rem; padding: .35rem 0; border: 0; border-top: 1px solid var(--line);
  border-radius: 0; }
.about li > img, .about li > .lost { width: 4.5rem; flex: none; padding: 0; }
.about small { display: block; color: var(--soft); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """One query and its hits; `picture` is the id of the image that was the query, where it was one."""

    query: str
    hits: Sequence[Hit]
    picture: int | None = None


def contact_sheet(title: str, sections: Sequence[Section], open_photo: OpenPhoto, *, foot: str = "") -> str:
    """The whole page; pictures are inside it as JPEG, `foot` is preformatted text below.

    A photo that cannot be opened is shown as its reason.
    """
    photos = Thumbnails(open_photo)
    body = "".join(_section(section, photos, heading=section.query != title) for section in sections)
    below = f"<pre>{escape(foot)}</pre>" if foot else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}{below}</body></html>\n"
    )


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
        self._made: dict[int, Thumbnail] = {}

    def of(self, image_id: int) -> Thumbnail:
        """Raises PhotoError where the photo cannot be opened."""
        if image_id not in self._made:
            photo = self._open(image_id)
            photo.thumbnail((self._side, self._side))
            stream = io.BytesIO()
            photo.save(stream, "JPEG", quality=self._quality, optimize=True)
            uri = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
            self._made[image_id] = Thumbnail(uri, photo.width, photo.height)
        return self._made[image_id]


def _element(photos: Thumbnails, image_id: int, alt: str) -> str:
    try:
        return f'<img src="{photos.of(image_id).uri}" alt="{escape(alt)}">'
    except PhotoError as error:
        return f'<div class="lost">{escape(str(error))}</div>'


def _section(section: Section, photos: Thumbnails, *, heading: bool) -> str:
    picture = "" if section.picture is None else _element(photos, section.picture, f"image {section.picture}")
    items = "".join(_item(rank, hit, photos) for rank, hit in enumerate(section.hits, start=1))
    above = f"<h2>{picture}<span>{escape(section.query)}</span></h2>" if heading else ""
    return f"{above}<ol>{items or '<li>nothing found</li>'}</ol>"


def _item(rank: int, hit: Hit, photos: Thumbnails) -> str:
    match hit.record:
        case Image(id=image_id, file=file):
            text = hit.caption or file
        case Caption(image_id=image_id, text=text):
            pass
        case None:
            return f"<li>{hit.id}</li>"
    also = "".join(f"<li>{_also(other, image_id, photos)}</li>" for other in hit.also)
    about = f"{escape(text)}<small>{rank} · {hit.score:.3f} · image {image_id}</small>"
    about += f"<ul>{also}</ul>" if also else ""
    return f'<li>{_element(photos, image_id, text)}<div class="about">{about}</div></li>'


def _also(hit: Hit, shown: int, photos: Thumbnails) -> str:
    """What a result stands for: another caption of the image `shown`, or another photo."""
    text = hit.record.text if isinstance(hit.record, Caption) else f"image {hit.image_id}"
    picture = "" if hit.image_id == shown else _element(photos, hit.image_id, text)
    return f"{picture}<span>{escape(text)}<small>{hit.score:.3f}</small></span>"
