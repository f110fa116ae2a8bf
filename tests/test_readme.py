"""The README says what the software does: every option is in it, and the demo's output is the demo's output."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from conftest import Call, ingest_options

README = (Path(__file__).parents[1] / "README.md").read_text()
EVERYWHERE = {"--help", "--path", "--url", "--dataset"}


def options(group: object, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(command, option) for every option of a command line."""
    commands = getattr(group, "commands", None)
    if commands is not None:
        for name, command in commands.items():
            yield from options(command, (*words, name))
        return
    for parameter in group.params:  # type: ignore[attr-defined]
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-"):
                yield " ".join(words), option


@pytest.mark.parametrize("package", ["ingest", "search", "eval"])
def test_every_option_is_documented(package: str) -> None:
    app = importlib.import_module(f"{package}.__main__").app
    rows = [line for line in README.splitlines() if line.startswith("| `python -m ")]
    assert EVERYWHERE - {"--help"} <= set(re.findall(r"--\w+", README))
    for command, option in options(typer.main.get_command(app), ("python -m", package)):
        mine = [row for row in rows if row.startswith(f"| `{command}")]
        assert mine, command
        if option in EVERYWHERE or command == "python -m search image":  # which is "the same" as text
            continue
        negated = re.sub(r"^--", "--no-", option)
        known = {option, negated, "--device" if option == "--devices" else option}
        known |= {"--devices"} if option == "--device" else set()
        assert known & set(re.findall(r"--?[\w-]+", mine[0])), f"{command} {option}"


def shape(value: object) -> object:
    """A JSON value with its keys, in order, and without what is specific to one index."""
    if isinstance(value, dict):
        return [(key, None if key in ("splits", "points_by_split") else shape(each)) for key, each in value.items()]
    return bool if isinstance(value, bool) else None


def test_the_status_as_json_is_as_it_is_shown(call: Call, photo_set: Path, clip_folder: Path) -> None:
    shown = json.loads(next(block for block in re.findall(r"```json\n(.*?)```", README, re.S) if "disk_bytes" in block))
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
    rows = re.findall(
        r"^((?:image-to-text|text-to-image) +(?:oracle|qdrant-exact))((?: +[\d.]+){5})(?: |$)", text, re.M
    )
    first_table = reversed(rows)  # later rows of the same name are of the second table
    return {" ".join(name.split()): [float(number) for number in numbers.split()] for name, numbers in first_table}


def test_the_demos_output_is_the_demos_output(call: Call, tmp_path: Path) -> None:
    shown = next(block for block in re.findall(r"```\n(.*?)```", README, re.S) if "python -m ingest run" in block)
    code, out, _ = call("ingest", "demo")
    assert code == 0
    commands = re.findall(r"^\$ (.*)$", shown, re.M)
    real = [re.sub(r" --model \S+", "", line) for line in re.findall(r"^\$ (.*)$", out, re.M)]
    assert [re.sub(r" --model \S+", "", line) for line in commands] == real
    for line in ("scenes, split test: 300 images, 1,500 captions (first 5 of each image)", "scenes_images: 390 points"):
        assert line in shown
        assert line in out
    expected, found = scores(shown), scores(out)
    assert len(expected) == 4
    for row, numbers in expected.items():
        assert found[row] == pytest.approx(numbers, abs=1.5), row  # JPEG libraries and processors differ a little
    page = (tmp_path / "demo/index.html").read_text()
    assert page.count("<img ") >= 20
    assert "qdrant-exact" in page
