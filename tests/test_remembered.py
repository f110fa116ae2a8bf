from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from clip_factory import save_random_clip
from conftest import Call, ingest_options, one_line_error, write_photo_set

from search.encoder import clip


class Loaded(Exception):
    """The model was loaded."""


def refuse(*_: object) -> None:
    raise Loaded


def test_a_run_with_nothing_to_do_loads_no_model(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_folder: Path
) -> None:
    photos = write_photo_set(tmp_path / "set", photos=6)
    model = shutil.copytree(clip_folder, tmp_path / "model")
    index = ["--path", str(tmp_path / "index")]
    options = ingest_options(photos, model, index)
    first, second, *_ = sorted((photos / "images/val2014").iterdir())
    content = second.read_bytes()
    second.write_bytes(content[:200])  # fails in every run, and needs no model for that
    assert call("ingest", *options)[0] == 3

    real = clip._load

    monkeypatch.setattr(clip, "_load", refuse)
    code, out, _ = call("ingest", *options, "--json")
    summary = json.loads(out)
    assert (code, summary["images"]["already_there"], summary["captions"]["already_there"]) == (3, 5, 30)
    assert [failure["file"] for failure in summary["failures"]] == [f"val2014/{second.name}"]
    os.utime(first, ns=(1, 1))  # the same photo with another time is read, not encoded
    assert call("ingest", *options, "--dtype", "float32")[0] == 3
    assert "made with prompt None, not 'a {}'" in one_line_error(call("ingest", *options, "--prompt", "a {}"))

    def needs_the_model(*more: str) -> None:
        with pytest.raises(Loaded):
            call("ingest", *options, *more)

    needs_the_model("--force")
    needs_the_model("--dtype", "bfloat16")  # there may be a warning
    needs_the_model("--trust-remote-code")
    second.write_bytes(content)
    needs_the_model()
    second.unlink()
    assert call("ingest", *options)[0] == 3
    weights = model / "0_CLIPModel/model.safetensors"
    times = weights.stat()
    shutil.copyfile(save_random_clip(tmp_path / "other", seed=1) / "0_CLIPModel/model.safetensors", weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time, but another model
    needs_the_model()

    monkeypatch.setattr(clip, "_load", real)
    assert "holds vectors of" in one_line_error(call("ingest", *options))
    monkeypatch.setattr(clip, "_load", refuse)
    assert "holds vectors of" in one_line_error(call("ingest", *options))  # which is now remembered


def test_a_model_on_the_hub_is_told_by_its_snapshot(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_folder: Path
) -> None:
    """A snapshot of the hub's cache consists of links to the files, which are named after their content."""
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    snapshot = hub / "models--some--clip/snapshots" / ("a" * 40)
    for file in (file for file in clip_folder.rglob("*") if file.is_file()):
        link = snapshot / file.relative_to(clip_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (hub / "models--some--clip/refs").mkdir()
    (hub / "models--some--clip/refs/main").write_text("a" * 40)
    photos = write_photo_set(tmp_path / "set", photos=2)
    options = ingest_options(photos, Path("some/clip"), ["--path", str(tmp_path / "index")])
    assert call("ingest", *options)[0] == 0

    monkeypatch.setattr(clip, "_load", refuse)
    assert call("ingest", *options)[0] == 0
