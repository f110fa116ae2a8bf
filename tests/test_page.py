from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import PIL.Image
import pytest
from conftest import Call, ingest_options
from hypothesis import given
from hypothesis import strategies as st
from page_run import (
    CAPTIONS,
    FULL,
    HEBREW,
    HOSTILE,
    LEAST,
    RESULTS,
    Reader,
    by_caption,
    by_photo,
    photo,
    records,
)

from eval.histogram import log_bins
from eval.report.misses import SIDE
from eval.report.page import report_page
from eval.runs import QueryResult, RunMetrics, read_run
from search.text import to_json

DASH = "\N{EN DASH}"


def page_of(metrics: dict[str, Any], results: Sequence[QueryResult] = RESULTS) -> str:
    return report_page(RunMetrics.model_validate(metrics), results, records, photo)


def plot(page: str, name: str) -> Element:
    found = re.search(rf'<svg class="plot"[^>]*aria-labelledby="{name}-title.*?</svg>', page, re.S)
    assert found, name
    return fromstring(found[0])


@pytest.fixture(scope="module")
def full() -> str:
    return page_of(FULL)


def test_it_is_one_file_that_fetches_nothing(full: str) -> None:
    reader = Reader(full)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in reader.elements}
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), tag
            if (tag, key) == ("a", "href") and "download" in attributes:
                assert value.startswith("data:image/svg+xml;base64,")
            elif key in {"src", "href", "srcset", "xlink:href", "action", "poster"}:
                inside = value.removeprefix("#") in ids if tag in {"a", "use"} else False
                assert inside or value.startswith("data:image/jpeg;base64,"), (tag, value)
    assert "url(" not in full
    assert "@import" not in full
    policy = next(meta["content"] for meta in reader.all("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy
    [script] = re.findall(r"<script>(.*?)</script>", full, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy  # nothing else runs


def test_captions_are_text_in_their_own_direction(full: str) -> None:
    reader = Reader(full)
    assert HOSTILE in reader.text
    assert not any("onerror" in attributes for _, attributes in reader.elements)
    shown = re.findall(r"<(\w+)([^>]*)>" + HEBREW, full)
    assert shown
    assert all('dir="auto"' in attributes for _, attributes in shown)
    assert any(attributes.get("aria-label") == HOSTILE for attributes in reader.all("svg"))
    assert "<tiny>/model on coco" in reader.text


def test_each_photo_is_embedded_once_and_small(full: str) -> None:
    embedded = Reader(full).all("image")
    assert [one["id"] for one in embedded] == [f"photo-{number}" for number in sorted((1, 2, 3), key=first_use(full))]
    for one in embedded:
        data = base64.b64decode(one["href"].removeprefix("data:image/jpeg;base64,"))
        assert PIL.Image.open(io.BytesIO(data)).size == (SIDE, SIDE * 3 // 4) == (int(one["width"]), int(one["height"]))
    assert len(Reader(full).all("use")) > len(embedded)
    assert "no such file" in full


def first_use(page: str) -> Any:
    return lambda number: page.index(f'href="#photo-{number}"')


def test_the_table_shows_every_column_side_by_side(full: str) -> None:
    reader = Reader(full)
    heads = ["recall@1", "recall@5", "recall@10", "median rank", "mean rank"]
    heads += ["ms/query", "queries/s", "bytes/vector", "answered by"]
    assert ["", *heads] in reader.rows
    oracle, exact, served = reader.row("oracle"), reader.row("qdrant-exact"), reader.row("qdrant-served")
    assert oracle[0] == ["25.00", "75.00", "100.00", "2.5", "3.00", DASH, DASH, DASH, DASH]
    assert exact[0] == [
        f"25.00 0.0{DASH}67.5", "75.00", "100.00", "2.5", "3.00", "4.00", "250", "2,048", "scan"
    ]  # fmt: skip
    assert exact[1][:5] == ["50.00", "100.00", "100.00", "1.5", "1.88"]
    assert served[0][:5] == ["25.00 same", "74.00", "75.00 \N{MINUS SIGN}25.00", "3.0", "not ranked"]
    assert served[1][-1] == "indistinguishable from a scan"
    assert "its rank is unknown" in reader.text
    assert ["", "mAP"] in reader.rows
    assert exact[2] == ["51.25"]
    assert reader.row("OpenAI")[0] == ["50.1", "75.0", "83.5", "30.4", DASH, DASH]
    others = ("2 folds of 1,000 images", "26.5", "33.2", "37.5", "12.5")
    for found in ("a <paper>", "recall@1: 25.1 points below", *others):
        assert found in reader.text, found
    assert "2 differ without explanation" in reader.text
    assert "versions.torch2.13.0" in reader.text.replace("\n", "")
    assert "splitstest, val" in reader.text.replace("\n", "")


def test_the_headline_comes_before_the_notes(full: str) -> None:
    reader = Reader(full)
    assert "<title>&lt;tiny&gt;/model on coco, split test, 6 November 2026</title>" in full
    places = [reader.text.index(text) for text in ("split test, 6 November 2026\n", "RSUM", "4 of 5,000 images", "mAP")]
    assert places == sorted(places)
    assert "RSUM 450.00" in reader.text


def test_every_table_can_be_copied(full: str) -> None:
    """Also a number that the page rounds is whole in CSV."""
    tables = re.split(r"(?=<table>)", full)[1:]
    assert len(tables) > 5
    for table in tables:
        reader = Reader(table)
        styles = [button["data-copy"] for button in reader.all("button")][:3]
        latex, markdown, comma_separated = styles
        assert latex.startswith(r"\begin{table}")
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert len({len(row) for row in csv.reader(io.StringIO(comma_separated))}) == 1
    published = next(table for table in tables if "<caption>Recall@k in percent, as published" in table)
    latex, markdown, comma_separated = [button["data-copy"] for button in Reader(published).all("button")][:3]
    assert r"\multicolumn{3}{c}{image-to-text} & \multicolumn{3}{c}{text-to-image} \\" in latex
    assert r"OpenAI ViT-B/32 (the same model; a $<$paper$>$) & 50.1 & 75.0 & 83.5 & 30.4 & -- & -- \\" in latex
    rows = list(csv.DictReader(io.StringIO(comma_separated)))
    assert [row["text-to-image recall@1"] for row in rows] == ["50.0", "30.4"]
    assert rows[1]["text-to-image recall@5"] == ""


def test_rankers_that_agree_in_every_rank_are_one_row() -> None:
    oracle, exact, served = FULL["columns"]
    reader = Reader(
        page_of({**FULL, "engine": "oracle", "columns": [oracle, {**exact, "same_ranks_as": "oracle"}, served]})
    )
    first, second, *_ = reader.row("oracle, qdrant-exact the same rank for every query")
    assert first == [f"25.00 0.0{DASH}67.5", "75.00", "100.00", "2.5", "3.00", "4.00", "250", "2,048", "scan"]
    assert second[0] == "50.00"
    assert [row for row in reader.row("qdrant-exact") if len(row) > 1] == []
    assert reader.row("qdrant-served")


def test_each_plot_is_a_file_of_its_own(full: str) -> None:
    links = [link for link in Reader(full).all("a") if "download" in link]
    assert [link["download"] for link in links][:2] == ["curve-image-to-text.svg", "curve-text-to-image.svg"]
    assert len(links) == full.count('<svg class="plot"')
    for link in links:
        file = base64.b64decode(link["href"].partition(",")[2]).decode()
        svg = fromstring(file)
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in file
        assert "#1d5fc2" in file


def test_the_labels_of_a_large_gallery_are_not_clipped() -> None:
    ranks = [by_caption(query, 1) for query in CAPTIONS]
    page = page_of({**LEAST, "images": 616_767}, ranks)
    drawn = plot(page, "ranks-text-to-image")
    labels = [text for text in drawn.iter("text") if text.get("class") == "tick"]
    assert labels[-1].text == f"500,001{DASH}616,767"
    assert all(float(label.get("x", "")) >= 7 * len(label.text or "") for label in labels)
    ends = [
        float(text.get("x", "")) + 7 * len(text.text or "")
        for text in drawn.iter("text")
        if "value" in text.get("class", "")
    ]
    assert max(ends) <= 440


def test_the_recall_curve_is_that_of_the_ranks(full: str) -> None:
    captions = plot(full, "curve-text-to-image")
    tips = [dot.findtext("title") for dot in captions.iter("circle")]
    assert tips[:2] == ["exact, k 1: 50.00 %", "exact, k 4: 100.00 %"]
    photos = plot(full, "curve-image-to-text")
    said = photos.findtext("desc") or ""
    assert said == ("exact: 25.0 % at 1, 75.0 % at 5, 100.0 % at 8; as served: 25.0 % at 1, 75.0 % at 5, 75.0 % at 8")
    heights = [float(point.split(",")[1]) for point in (next(photos.iter("polyline")).get("points") or "").split()]
    zero, whole = (float(text.get("y", "")) - 4 for text in photos.iter("text") if text.text in {"0", "100"})
    shares = [100 * (zero - height) / (zero - whole) for height in heights]
    assert shares == pytest.approx([25, 50, 75, 75, 75, 100, 100, 100], abs=0.1)


def test_the_rank_bars_count_queries(full: str) -> None:
    bars = list(plot(full, "ranks-text-to-image").iter("rect"))
    assert [bar.findtext("title") for bar in bars] == [
        "rank 1: 4 queries, 50.00 %",
        "rank 2: 2 queries, 25.00 %",
        f"rank 3{DASH}4: 2 queries, 25.00 %",
    ]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths == pytest.approx([widths[0], widths[0] / 2, widths[0] / 2], abs=0.02)
    # one scale for both directions: 25 % of four photos is as long as 25 % of eight captions
    assert float(next(plot(full, "ranks-image-to-text").iter("rect")).get("width", "")) == pytest.approx(widths[1])


def test_recall_by_caption_length(full: str) -> None:
    drawn = plot(full, "length-recall@1")
    assert drawn.findtext("desc") == (
        f"2 words, 4 captions: 25.0 % (5.0 to 50.0); 3{DASH}11 words, 4 captions: 25.0 % (5.0 to 50.0)"
    )
    assert [text.text for text in drawn.iter("text")][:2] == ["2 words", "25.0 % of 4"]
    low, high = map(float, re.findall(r"[MH]([\d.]+)", next(drawn.iter("path")).get("d", "")))
    dot, start = float(next(drawn.iter("circle")).get("cx", "")), low - (high - low) * 5 / 45
    assert (dot - start) / (high - start) == pytest.approx(25 / 50, abs=0.001)


def test_the_speed_plot_has_the_columns_with_a_speed(full: str) -> None:
    tips = {dot.findtext("title") for dot in plot(full, "speed-image-to-text").iter("circle")}
    assert tips == {
        "qdrant-exact: 4 milliseconds a query, recall@10 100.00",
        "qdrant-served: 0.5 milliseconds a query, recall@10 75.00",
    }


def test_bins_end_where_recall_is_reported() -> None:
    assert log_bins(np.array([1, 1, 2, 5, 6, 10, 11, 25]), 1, 25) == [
        (1, 1, 2), (2, 2, 1), (3, 5, 1), (6, 10, 2), (11, 20, 1), (21, 25, 1)
    ]  # fmt: skip
    assert log_bins(np.array([1]), 1, 1) == [(1, 1, 1)]
    assert log_bins(np.array([0, 3, 0]), 0, 3) == [(0, 0, 2), (1, 1, 0), (2, 2, 0), (3, 3, 1)]
    assert log_bins(np.array([0]), 0, 0) == [(0, 0, 1)]


@given(st.integers(0, 1), st.integers(1, 30_000), st.data())
def test_every_number_is_in_one_bin(lowest: int, highest: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(lowest, highest), max_size=20))
    bins = log_bins(np.array(numbers, dtype=np.int64), lowest, highest)
    assert sum(count for *_, count in bins) == len(numbers)
    assert bins[0][0] == lowest
    assert bins[-1][1] == highest
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bins))


def test_a_miss_shows_what_was_asked_expected_and_returned() -> None:
    page = page_of(FULL, [by_caption(30, 3), by_photo(3, 2)])
    photos, captions = re.findall(r"<article.*?</article>", page, re.S)
    read = Reader(captions)
    assert "expected at rank 3, score 0.700: 0.200 below the first hit" in read.text
    assert [use["href"] for use in read.all("use")] == ["#photo-3", "#photo-1", "#photo-2", "#photo-3"]
    assert "4 · 0.600" in read.text
    assert read.text.count("✓ expected") == 1
    read = Reader(photos)
    assert "expected at rank 2, score 0.800: 0.100 below the first hit" in read.text
    shown = [use["href"].removeprefix("#photo-") for use in read.all("use")]
    assert shown == ["3", "1", "3", "1", "2", "2"]  # its own photo, then that of each caption returned
    assert "the best of them: 2 · 0.800" in read.text
    assert "a beach" in read.text


def test_records_that_are_gone_are_said() -> None:
    page = report_page(RunMetrics.model_validate(LEAST), RESULTS, lambda _kind, _ids: {}, photo)
    assert "no longer in the index" in page


@pytest.mark.parametrize("missing", [key for key in FULL if key not in LEAST])
def test_what_was_not_measured_is_left_out(missing: str) -> None:
    reader = Reader(page_of({key: value for key, value in FULL.items() if key != missing}))
    assert not re.search(r"\b(None|Undefined|nan)\b", reader.text)
    assert reader.row("OpenAI") or missing == "published"


def test_the_least_a_run_holds_is_a_page() -> None:
    reader = Reader(page_of(LEAST))
    assert reader.row("this run")[1][:5] == ["50.00", "100.00", "100.00", "1.5", "1.88"]
    empty: dict[str, Any] = {
        "folds": None,
        "extended": None,
        "published": [],
        "notes": [],
        "fingerprint": {},
        "columns": [],
    }
    assert Reader(page_of({**LEAST, **empty})).text == reader.text


def test_a_run_without_misses_says_so() -> None:
    page = page_of(LEAST, [by_caption(10, 1), by_photo(1, 1)])
    assert "None of 1 queries missed" in page
    assert "<article" not in page
    assert page_of(LEAST, [])


def test_headings_and_tables_are_in_order(full: str) -> None:
    reader = Reader(full)
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(cell.get("scope") for cell in reader.all("th"))
    for svg in reader.all("svg"):
        assert svg.get("aria-hidden") or svg.get("aria-labelledby") or svg.get("aria-label")


def test_the_metrics_come_from_a_json_file(full: str) -> None:
    written = json.loads(to_json(RunMetrics.model_validate(FULL).as_json()))
    assert page_of(written) == full
    assert all(written[name] == FULL[name] for name in FULL if name != "columns")


def test_what_the_page_reads_is_shipped() -> None:
    root = Path(__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["eval.report"]
    files = [file.name for file in (root / "eval/report").iterdir() if file.is_file() and file.suffix != ".py"]
    assert all(any(fnmatch(name, pattern) for pattern in listed) for name in files)


def test_the_command_writes_the_page(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    code, _, err = call("eval", "run", "--split", "all", "--out", "run", *place)
    assert code == 0, err
    run = read_run(Path("run"))
    page = Path("run/report.html").read_text(encoding="utf-8")
    read = Reader(page)
    shown = 0
    for way, metrics in ((way, run.metrics.scores[way]) for way in ("image-to-text", "text-to-image")):
        assert any(row[0].split()[0] == f"{metrics['recall@1']:.2f}" for row in read.row("oracle"))
        misses = sum(result.rank > 1 for result in run.results if result.direction == way)
        assert f"{misses} of " in read.text
        shown += min(misses, 62)
    assert len(read.all("image")) == 12
    assert len(read.all("article")) == shown > 18
