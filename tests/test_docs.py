"""The documentation is current: its commands, keys, output and links are compared with the real ones."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import commands_page
import models_page
import pytest
from conftest import Call, ingest_options, plain_spec
from test_replay import related, store

from eval.extended.eccv import ECCV
from search.index.edge.index import EdgeIndex

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def prose_and_code(page: Path) -> tuple[str, list[str]]:
    """Return a page without its fenced blocks, and the contents of these."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"```.*?```", "", text, flags=re.S), re.findall(r"```\w*\n(.*?)```", text, re.S)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", prose_and_code(page)[0], re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose, _ = prose_and_code(page)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_in_the_readmes_table() -> None:
    assert set(re.findall(r"\(docs/(\w+\.md)\)", README.read_text())) == {page.name for page in PAGES[2:]}


def test_the_page_of_commands_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", "40"), ("TERM", "dumb"), ("FORCE_COLOR", "1")):
        monkeypatch.setenv(name, value)
    is_current = commands_page.FILE.read_text(encoding="utf-8") == commands_page.page()
    assert is_current, f"docs/commands.md is stale: run `{commands_page.REGENERATE}`"


def test_the_page_of_models_is_current() -> None:
    is_current = models_page.FILE.read_text(encoding="utf-8") == models_page.page()
    assert is_current, f"docs/models.md is stale: run `{commands_page.REGENERATE}`"


def commands_in(page: Path) -> Iterator[list[str]]:
    """Yield the words after `python -m` of every command in the page's fenced blocks."""
    for block in prose_and_code(page)[1]:
        for line in re.findall(r"^(?:\$ )?python -m ((?:ingest|search|eval) (?:\\\n|.)*)", block, re.M):
            yield shlex.split(line.replace("\\\n", " "), comments=True)


def test_the_commands_that_are_shown_exist() -> None:
    known = dict(commands_page.commands())
    shown = [(page.name, words) for page in PAGES if page != commands_page.FILE for words in commands_in(page)]
    assert len(shown) > 30
    for page, words in shown:
        name = next(" ".join(words[:count]) for count in (3, 2, 1) if " ".join(words[:count]) in known)
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options, f"{page}: python -m {' '.join(words)}"


def keys_of(value: Any) -> Iterator[str]:
    """Yield the keys of objects at any depth, but not those that are names of rankers, collections and packages."""
    if isinstance(value, list):
        for item in value:
            yield from keys_of(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(list(inner.values()) if key in ("loss", "collections", "software") else inner)


def test_every_key_of_a_run_is_explained(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.report.published.is_published_gallery", lambda _: True)
    images, captions = related(40, 5, 16, noise=3.0)
    images[2] = images[0]  # a tie, without which nothing is pessimistic
    index = EdgeIndex(tmp_path / "index")
    store(index, plain_spec, images, captions)
    index.close()
    options = ["--folds", "2", "--resamples", "100", "--out", "run", "--path", tmp_path / "index"]
    code, _, err = call("eval", "run", *options)
    assert code == 0, err
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert {"folds", "published", "pessimistic"} <= {name for name, value in metrics.items() if value}
    line = json.loads(Path("run/ranks.jsonl").read_text().partition("\n")[0])
    page = (ROOT / "docs/evaluation.md").read_text()
    explained = set(re.findall(r"`([^`\s]+)`", prose_and_code(ROOT / "docs/evaluation.md")[0]))
    needed = {*keys_of(metrics), *keys_of(line), *(metric.name for metric in ECCV), "cxc", "eccv"}
    assert len(needed) > 60
    assert needed <= explained, f"docs/evaluation.md does not explain {sorted(needed - explained)}"
    assert all(f"`{name}`" in page for name in ("hnsw", "scan", "indistinguishable from a scan"))


def shape(value: object) -> object:
    """Return a JSON value with its keys, in order, and without what is specific to one index."""
    if isinstance(value, dict):
        return [(key, None if key in ("splits", "points_by_split") else shape(inner)) for key, inner in value.items()]
    return bool if isinstance(value, bool) else None


def test_the_status_as_json_is_as_it_is_shown(call: Call, photo_set: Path, clip_folder: Path) -> None:
    _, blocks = prose_and_code(ROOT / "docs/storage.md")
    shown = json.loads(next(block for block in blocks if "disk_bytes" in block))
    assert call("ingest", *ingest_options(photo_set, clip_folder, ["--path", "index"]))[0] == 0
    captions, images = json.loads(call("ingest", "status", "--json")[1])
    assert shape(images) == shape(captions) == shape(shown)
    assert images["settings"] == shown["settings"]
    assert (images["place"], images["engine"], images["pending"]) == (shown["place"], shown["engine"], None)
    assert images["points_by_split"] == {"test": 8, "val": 4}
    assert captions["points_by_split"] == {"test": 40, "val": 20}
    files = [file for file in Path("index/coco_images").rglob("*") if file.is_file()]
    assert images["disk_bytes"] == pytest.approx(sum(file.stat().st_blocks * 512 for file in files), rel=0.1)


def scores(text: str) -> dict[str, list[float]]:
    rows = re.findall(r"^(image-to-text|text-to-image)\n  oracle((?: +[\d.]+){5})$", text, re.M)
    first_table = reversed(rows)  # the second table has rows of these names too
    return {name: [float(number) for number in numbers.split()] for name, numbers in first_table}


def hits(text: str) -> dict[str, str]:
    """Return the scores of search results, by their ranks, ids and the beginnings of their texts."""
    rows = re.findall(r"^ +(\d+)  (0\.\d{4})  ( *\d+  .{,55})", text, re.M)  # lines are cut at the terminal's width
    return {f"{rank} {rest}": score for rank, score, rest in rows}


def test_the_demo_prints_what_the_readme_shows(call: Call, tmp_path: Path) -> None:
    shown = "".join(prose_and_code(README)[1])
    code, out, _ = call("ingest", "demo")
    assert code == 0
    heading = "scenes, split test: 300 images, 1,500 captions (first 5 of each image)"
    assert heading in shown
    assert heading in out
    expected, printed = scores(shown), scores(out)
    assert len(expected) == 2
    for row, numbers in expected.items():
        assert printed[row] == pytest.approx(numbers, abs=1.5), row  # JPEG libraries and processors differ a little
    expected_hits, printed_hits = hits(shown), hits(out)
    assert len(expected_hits) == 8
    same = expected_hits.keys() & printed_hits.keys()
    assert len(same) >= 5  # close scores may change places
    for row in same:
        assert float(printed_hits[row]) == pytest.approx(float(expected_hits[row]), abs=0.02)
    page = (tmp_path / "demo/index.html").read_text()
    assert page.count("<img ") >= 20
    assert "qdrant-exact" in page

    code, out, _ = call("ingest", "demo", "--images", 20)  # a smaller demo after a larger one
    assert code == 0
    assert "split test: 20 images" in out

    index = EdgeIndex(tmp_path / "index")
    for kind in ("images", "captions"):  # as if another version had made it, with another model
        index.set_spec(replace(index.spec(f"scenes_{kind}"), weights="0" * 64))
    index.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.fill.fill", Mock(side_effect=KeyboardInterrupt))  # which would fill them again
        assert call("ingest", "demo", "--images", 20)[0] == 130
    assert EdgeIndex(tmp_path / "index").collections() == []
