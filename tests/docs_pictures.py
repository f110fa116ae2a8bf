"""Take the pictures of the documentation: the page, the report and the results of the demo, as a browser shows them.

After `python -m ingest demo --out demo --path demo/index`:
`PYTHONPATH=. python tests/docs_pictures.py demo demo/index`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import PIL.Image
from browsing import ARGUMENTS, CHROMIUM, SHOWN
from running_web import serving

DOCS = Path(__file__).resolve().parents[1] / "docs"
QUERY = "a whale and a lighthouse at sunset"
SIZE = (1200, 760)
IMAGES = "[...document.querySelectorAll('#results img')].slice(0, 8)"
LOADED = f"{IMAGES}.every((image) => image.complete && image.naturalWidth)"


def take(demo: Path, index: Path) -> None:
    """Write the pictures, from the folder and the index of the demo."""
    from playwright.sync_api import sync_playwright

    with serving(index) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(f"{address}/?q={QUERY}")
        page.wait_for_selector(SHOWN)
        page.wait_for_function(LOADED)
        save(page.screenshot(), DOCS / "page.png")
        page.goto((demo / "report/report.html").resolve().as_uri())
        save(page.screenshot(), DOCS / "report.png")
        page.set_viewport_size({"width": SIZE[0], "height": 1000})
        page.goto((demo / "index.html").resolve().as_uri())
        save(page.screenshot(), DOCS / "demo.png")
        browser.close()


def save(screenshot: bytes, file: Path) -> None:
    """Write a picture with few colours, which makes it small."""
    PIL.Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
