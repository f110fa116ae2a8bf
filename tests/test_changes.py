"""`eval compare --out`: what changed most between two runs, with photos."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Call, ingest_options
from page_run import Reader


def test_the_page_of_changes(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    a, b = tmp_path / "a", tmp_path / "b"
    code, _, err = call("eval", "run", *place, "--split", "all", "--engine", "none", "--resamples", 100, "--out", a)
    assert code == 0, err
    b.mkdir()
    (b / "metrics.json").write_bytes((a / "metrics.json").read_bytes())
    lines = [json.loads(line) for line in (a / "ranks.jsonl").read_text().splitlines()]
    changed = [next(line for line in lines if line["direction"] == way) for way in ("image-to-text", "text-to-image")]
    for line in changed:
        line["rank"] += 4
        line["top"] = line["top"][::-1]
    (b / "ranks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    code, _, err = call("eval", "compare", a, b, *place, "--resamples", 100, "--out", tmp_path / "page")
    assert code == 0, err
    page = (tmp_path / "page/changes.html").read_text()
    assert "changes.html" in err
    found = Reader(page)
    assert found.text.count("worsened most in B") == 2
    assert "improved" not in found.text
    for line in changed:
        assert line["text"] in found.text
        assert f"A: rank {line['rank'] - 4}" in found.text
        assert f"B: rank {line['rank']}" in found.text
    shown = {picture["href"] for picture in found.all("use")}
    assert shown == {f"#{image['id']}" for image in found.all("image")}
    assert all(image["href"].startswith("data:image/jpeg") for image in found.all("image"))
    assert len(shown) >= 5
    assert page.count('class="lines"') == 4  # both runs of two queries
    assert "http" not in page.replace("http-equiv", "")

    assert call("eval", "compare", a, a, *place, "--resamples", 100, "--out", tmp_path / "same")[0] == 0
    assert "No query has another rank." in (tmp_path / "same/changes.html").read_text()
    code, _, err = call("eval", "compare", a, b, a, *place, "--out", tmp_path / "three")
    assert code == 2
    assert not (tmp_path / "three").exists()
