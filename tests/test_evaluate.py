"""The evaluation as people run it: `python -m eval run` with its columns, files and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import KARPATHY_TEST, Call, needs, one_line_error, plain_spec
from test_replay import related, store

from eval.evaluate import Plan, evaluate
from eval.ground_truth import read_ground_truth
from eval.metrics import MAP_AT_R, METRICS, Metric, recall
from eval.ranks.rankers import copy_of
from eval.ranks.replay import AS_SERVED, replay
from eval.report.published import compare_with_published, gallery, ids_hash, published
from eval.runs import Scores, read_run
from ingest.transfer.copy import chosen_collections
from search.errors import EvaluationError
from search.index import CollectionSpec, Index, SplitSize, Tuning, only_dataset
from search.index.edge.index import EdgeIndex

MakeSpec = Callable[..., CollectionSpec]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An embedded index of 200 images with 6 captions each, half of them in the test split; evaluations leave it so."""
    folder = tmp_path_factory.mktemp("evaluated")
    index = EdgeIndex(folder)
    store(index, plain_spec, *related(200, 6, 32, noise=3.0))
    index.close()
    return ["--path", str(folder)]


def test_a_run_and_its_files(call: Call, place: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed, err = call("eval", "run", "--ef", "12,64", "--folds", 4, "--out", out, "--json", *place)
    assert code == 0, err
    found = json.loads(printed)
    run = read_run(out)
    assert run.metrics.as_json() == found
    names = [column["name"] for column in found["columns"]]
    assert names == ["oracle", "qdrant-exact", "qdrant-served", "hnsw ef=12", "hnsw ef=64"]
    assert (found["images"], found["captions"], found["captions_per_image"]) == (100, 500, 5)
    assert found["folds"]["images"] == 25
    (length,) = found["caption_lengths"]  # every caption has two words
    assert (length["shortest"], length["longest"], length["queries"], length["images"]) == (2, 2, 500, 100)
    for name, value in length["scores"].items():
        assert value == found["text-to-image"][name]
        assert length["intervals"][name] == found["intervals"]["text-to-image"][name]
    for direction, queries in (("image-to-text", 100), ("text-to-image", 500)):
        mine = [result for result in run.results if result.direction == direction]
        assert len(mine) == queries
        headline = found[direction]
        ranks = np.array([result.rank for result in mine])
        assert headline["recall@5"] == pytest.approx(100 * np.mean(ranks <= 5))
        assert headline["mean_rank"] == pytest.approx(ranks.mean())
        assert found["folds"][direction]["recall@5"] > headline["recall@5"]  # a smaller gallery
        for name, (low, high) in found["intervals"][direction].items():
            assert low <= headline[name] <= high
            assert low < high or name == "median_rank"
        for result in mine:
            scores = [hit.score for hit in result.top]
            assert len(scores) == 10
            assert scores == sorted(scores, reverse=True)
            first = next((place for place, hit in enumerate(result.top, start=1) if hit.positive), None)
            assert (first is None) == (result.rank > 10)
            if first is not None:
                assert result.score == pytest.approx(result.top[first - 1].score, abs=1e-5)
    served = found["columns"][2]
    assert set(served["used"].values()) == {"scan"}  # so small a collection gets no HNSW
    assert any("a full scan answered" in note for note in found["notes"])
    narrow, wide = found["columns"][3:]
    assert set(narrow["used"].values()) == {"hnsw"}
    for direction in ("image-to-text", "text-to-image"):
        assert narrow[direction]["mean_rank"] is None
        assert narrow[direction]["recall@10"] <= wide[direction]["recall@10"] + 1
        assert found["loss"]["hnsw ef=12"][direction]["mean_rank"] is None
        assert served["overlap_at_10"][direction] == 100
        assert narrow["overlap_at_10"][direction] <= wide["overlap_at_10"][direction] <= 100
        assert found["significance"]["qdrant-served"][direction]["recall@1"] == {
            "difference": 0,
            "interval": [0, 0],
            "p": 1,
            "p_holm": 1,
        }
        of_direction = [result for result in run.results if result.direction == direction]
        for column in (narrow, wide):
            percentiles = column["latency_percentiles_ms"][direction]
            assert percentiles["p50"] == column["latency_ms"][direction] <= percentiles["p95"] <= percentiles["p99"]
            of_queries = [result.ranks[column["name"]] for result in of_direction]
            in_first_five = [rank is not None and rank <= 5 for rank in of_queries]
            assert column[direction]["recall@5"] == pytest.approx(100 * np.mean(in_first_five))
            tested = found["significance"][column["name"]][direction]
            assert list(tested) == ["recall@1", "recall@5", "recall@10", "recall_sum"]  # what ten hits show
            for name, of in tested.items():
                assert of["difference"] == pytest.approx(found["loss"][column["name"]][direction][name])
                assert of["interval"][0] <= of["difference"] <= of["interval"][1]
                assert of["p"] <= of["p_holm"] <= 1
    page = (out / "report.html").read_text()
    assert page.count(">hnsw ef=12<") >= 4
    assert "Against exact search" in page

    left = EdgeIndex(Path(place[1]))
    assert left.collections() == ["coco_captions", "coco_images"]
    left.close()


@pytest.fixture
def second_metrics() -> Iterator[tuple[Metric, Metric]]:
    """One that needs the rank of the best positive, and one that needs those of all; each is the sixth of its table."""
    more = replace(recall(20), table="second"), replace(MAP_AT_R, recorded="map_at_r", table="main")
    METRICS.extend(more)
    yield more
    del METRICS[-2:]


def test_a_new_metric_is_one_record(
    call: Call, place: list[str], tmp_path: Path, second_metrics: tuple[Metric, Metric]
) -> None:
    """It appears wherever the others do, and is not given where too few hits were fetched to know it."""
    out = tmp_path / "run"
    code, table, err = call("eval", "run", "--out", out, "--folds", 4, "--resamples", 100, *place)
    assert code == 0, err
    found = json.loads((out / "metrics.json").read_text())
    served = next(column for column in found["columns"] if column["name"] == "qdrant-served")
    lines = [json.loads(line) for line in (out / "ranks.jsonl").read_text().splitlines()]
    compared = json.loads(call("eval", "compare", out, out, "--resamples", 100, "--json")[1])
    for way in ("image-to-text", "text-to-image"):
        mine = [line for line in lines if line["direction"] == way]
        assert found[way]["recall@20"] == pytest.approx(100 * np.mean([line["rank"] <= 20 for line in mine]))
        assert found[way]["map_at_r"] == pytest.approx(100 * np.mean([line["map_at_r"] for line in mine]))
        assert served[way]["recall@20"] is found["loss"]["qdrant-served"][way]["recall@20"] is None
        assert "map_at_r" not in served[way]
        for metric in second_metrics:
            assert metric.name in found["intervals"][way]
            assert compared[way][metric.name]["a"] == pytest.approx(found[way][metric.name], abs=1e-3)
        assert found["folds"][way]["recall@20"] > found[way]["recall@20"]
        rows = [part.splitlines()[0].split() for part in table.split(f"\n{way}\n")[1:]]  # of the oracle, in each table
        assert rows[1] == ["oracle", f"{found[way]['map_at_r']:.2f}"]
        assert rows[3] == ["oracle", f"{found[way]['recall@20']:.2f}"]
    assert {"mAP@R", "recall@20"} <= {line.strip() for line in table.splitlines()}  # the headings of their tables
    assert "qdrant-served: recall@20 cannot be known from the first 10 hits" in table
    assert max(map(len, table.partition("\nRSUM")[0].splitlines()[3:])) <= 80
    assert re.search(r"average of 4 folds of 25 images: .* / -$", table, re.M)  # folds do not rank all positives
    assert "mAP@R</th>" in (out / "report.html").read_text()


def test_quantised_copies(call: Call, place: list[str]) -> None:
    code, out, err = call(
        "eval", "run", "--engine", "none", "--quantization", "int8", "--resamples", 100, "--json", *place
    )
    assert code == 0, err
    found = json.loads(out)
    assert [column["name"] for column in found["columns"]] == ["oracle", "int8 rescored", "int8"]
    assert found["engine"] == "oracle"
    assert found["agreement"] == {}
    assert [column["bytes_per_vector"] for column in found["columns"]] == [None, 36, 36]


def test_the_table(call: Call, place: list[str]) -> None:
    code, out, _ = call("eval", "run", "--captions", "all", "--resamples", 100, *place)
    assert code == 0
    assert "100 images, 600 captions (all of each image)" in out
    assert "95% interval" in out
    assert out.count("qdrant-served  ") == 4  # in two tables
    assert "against exact search" in out
    assert "all 600 ranks are the same" in out
    assert max(map(len, out.partition("\nRSUM")[0].splitlines()[3:])) <= 80


@pytest.mark.parametrize("wrong", [["--ef", "many"], ["--ef", "5"], ["--engine", "magic"], ["--quantization", "int3"]])
def test_wrong_usage(call: Call, place: list[str], wrong: list[str]) -> None:
    code, out, err = call("eval", "run", *wrong, *place)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_folds_that_do_not_divide(call: Call, place: list[str]) -> None:
    assert "100 images do not make 7 equal folds" in one_line_error(call("eval", "run", "--folds", 7, *place))


def test_what_is_missing_is_allowed_only_when_asked(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    images, captions = related(40, 5, 16, noise=2.0)
    store(index, make_spec, images, captions, expected=44)
    with pytest.raises(EvaluationError, match="--allow-missing"):
        read_ground_truth(index, dataset, ["test"])
    evaluation = read_ground_truth(index, dataset, ["test"], allow_missing=True)
    assert evaluation.images == 20
    assert any("2 of 22 images take no part" in note for note in evaluation.notes)


def test_captions_without_their_image_leave_the_gallery_too(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    """An image of the validation split, moved out of the test split: its captions stay behind in it."""
    store(index, make_spec, *related(40, 5, 16, noise=2.0))
    everything = index.retrieve(f"{dataset}_images", [0], vectors=True)
    assert everything.vectors is not None
    from points import image

    from search.index import Points

    texts = tuple(f"sentence {position}" for position in range(5))
    index.upsert(f"{dataset}_images", Points([image(0, "val", texts)], everything.vectors))
    evaluation = read_ground_truth(index, dataset, ["test"], allow_missing=True)
    assert (evaluation.images, evaluation.captions) == (19, 95)
    assert any("5 captions without their image" in note for note in evaluation.notes)
    report = evaluate(index, evaluation, Plan(engines=("qdrant-exact",), resamples=100))
    assert all(not len(found.unexplained) for found in report.agreements().values())
    top = {hit.id for result in report.results() if result.direction == "image-to-text" for hit in result.top}
    assert not top & set(range(5))


def test_a_copy_is_dropped_whatever_happens(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(20, 5, 16, noise=2.0))
    task = read_ground_truth(index, dataset, ["test"]).image_to_text

    def use() -> None:
        with copy_of(index, task, "hnsw", Tuning(index_everything=True)) as copied:
            assert copied.gallery.collection in index.collections()
            assert index.count(copied.gallery.collection) == 50  # of the test split alone
            assert replay(index, copied, AS_SERVED).top_ids.shape == (10, 10)
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert index.collections() == sorted(f"{dataset}_{kind}" for kind in ("images", "captions"))


def scores(value: float) -> dict[str, Scores]:
    metrics = ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")
    return {direction: dict.fromkeys(metrics, value) for direction in ("image-to-text", "text-to-image")}


def test_published_figures_are_those_of_our_metrics() -> None:
    known = {metric.name for metric in METRICS}
    assert all(scores.keys() <= known for row in published() for scores in row.scores.values())


def test_published_figures(make_spec: MakeSpec, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = EdgeIndex(tmp_path)
    change = {"model": "sentence-transformers/clip-ViT-B-32", "dtype": "bfloat16"}
    store(index, lambda **fields: make_spec(**{**fields, **change}), *related(20, 5, 16, noise=2.0))
    evaluation = read_ground_truth(index, dataset, ["test"])
    near = {way: dict.fromkeys(found, (29.0, 52.0)) for way, found in scores(0).items()}
    assert compare_with_published(evaluation, scores(40.0), near) == []  # whatever the data set is called
    ids = evaluation.image_to_text.queries.ids.tolist()
    monkeypatch.setattr("eval.report.published.gallery", lambda: (len(ids), ids_hash(reversed(ids))))
    rows = {row.name: row for row in compare_with_published(evaluation, scores(40.0), near)}
    verdict = rows["OpenAI ViT-B/32"].verdict
    assert "text-to-image recall@1: 40.0, within the interval of the published 30.4" in verdict
    assert "text-to-image recall@10: 40.0, 26.9 points below the published 66.9" in verdict
    assert "what differs from the published protocol: the number type (bfloat16 here, float32 there)" in verdict
    assert verdict[-1].startswith("check: what differs, then the weights")
    assert rows["OpenAI ViT-L/14"].verdict == []
    everything = read_ground_truth(index, dataset, ["test"], None)
    verdict = next(row.verdict for row in compare_with_published(everything, scores(40.0), near) if row.verdict)
    assert any("the captions (all here, the first five there)" in line for line in verdict)
    assert compare_with_published(read_ground_truth(index, dataset, ["val"]), scores(40.0), near) == []
    index.close()


@needs(KARPATHY_TEST)
def test_the_published_gallery_is_karpathys_test_split() -> None:
    images = json.loads(KARPATHY_TEST.read_text())["images"]
    assert gallery() == (len(images), ids_hash(image["cocoid"] for image in images))


@pytest.mark.parametrize("named", ["coco", "scenes"])
def test_a_part_of_coco_is_warned_of(
    call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path, named: str
) -> None:
    """Whether photos are COCO's is a matter of the annotation file, not of the name of the data set in the index."""
    content = json.loads((photo_set / "dataset_coco.json").read_text()) | {"dataset": named}
    (tmp_path / "some.json").write_text(json.dumps(content))
    files = ["--annotations", "some.json", "--images", photo_set / "images", "--model", clip_folder]
    assert call("ingest", "run", *files, "--dataset", "my-coco-5k")[0] == 0
    code, out, _ = call("eval", "run", "--engine", "none", "--resamples", 100)
    assert code == 0
    warned = [line for line in out.splitlines() if "published figures are left out" in line]
    assert len(warned) == (named == "coco")
    assert all("5,000 images of COCO's complete Karpathy test split" in line for line in warned)


def test_cut_captions_are_counted(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    from search.index import Points
    from search.records import Caption

    store(index, make_spec, *related(10, 5, 8, noise=0.5))
    stored = index.retrieve(f"{dataset}_captions", [0], vectors=True)
    (caption,) = stored.records
    assert isinstance(caption, Caption)
    assert stored.vectors is not None
    index.upsert(f"{dataset}_captions", Points([replace(caption, truncated=True)], stored.vectors))
    report = evaluate(index, read_ground_truth(index, dataset, ["test"]), Plan(engines=(), resamples=100))
    assert report.fingerprint["truncated_captions"] == 1
    assert any("longer than the model reads, and cut: 1" in note for note in report.notes())


def test_the_fingerprint_tells_runs_apart(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(10, 5, 8, noise=0.5))
    report = evaluate(index, read_ground_truth(index, dataset, ["test"]), Plan(engines=(), resamples=100))
    found = report.fingerprint
    assert (found["model"], found["weights"], found["annotations"]) == ("some-clip", "a" * 64, "b" * 64)
    assert {"dtype", "decode", "prompt", "split", "tie_rule", "engine", "collections", "software"} <= found.keys()
    assert found["software"]["qdrant-client"].startswith("1.")
    assert SplitSize(images=5, captions=25, images_in_file=5) == report.evaluation.spec.splits["test"]


def test_two_runs_are_compared(call: Call, place: list[str], tmp_path: Path) -> None:
    quick = ["--engine", "none", "--resamples", 100]
    for name, options in (("a", []), ("all", ["--captions", "all"])):
        assert call("eval", "run", "--out", tmp_path / name, *quick, *options, *place)[0] == 0
    code, out, _ = call("eval", "compare", tmp_path / "a", tmp_path / "a", "--resamples", 100, "--json")
    assert code == 0
    for direction in ("image-to-text", "text-to-image"):
        for metric in ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank", "mean_average_precision"):
            found = json.loads(out)[direction][metric]
            assert (found["difference"], found["interval"], found["p"]) == (0, [0, 0], 1)
    assert "captions" in one_line_error(call("eval", "compare", tmp_path / "a", tmp_path / "all"))
    assert "holds no run" in one_line_error(call("eval", "compare", tmp_path / "a", tmp_path / "nowhere"))


def test_float32_ties_do_not_flatter(call: Call, tmp_path: Path) -> None:
    """Photos an ulp apart: Qdrant scores them alike, exact arithmetic ranks each caption's photo among them."""
    images, captions = related(40, 5, 32, noise=2.0)
    steps = np.random.default_rng(1).integers(0, 2, images.shape)
    images = np.where(steps, np.nextafter(images[:1], np.float32(2)), images[:1])
    index = EdgeIndex(tmp_path / "index")
    store(index, plain_spec, images, captions)
    index.close()
    options = ["--folds", 2, "--resamples", 100, "--out", tmp_path / "run"]
    code, table, err = call("eval", "run", "--path", tmp_path / "index", *options)
    assert code == 0, err
    run = read_run(tmp_path / "run")
    found = run.metrics
    oracle, exact, _ = found.columns
    way = "text-to-image"
    assert found.engine == "oracle"
    assert found.scores == oracle.scores
    best, worst = exact.scores[way], exact.pessimistic[way]
    mine, at_worst = found.scores[way]["recall@1"], found.pessimistic.get(way, found.scores[way])["recall@1"]
    assert best["recall@1"] is not None
    assert worst["recall@1"] is not None
    assert mine is not None
    assert worst["recall@1"] <= mine < best["recall@1"] - 20
    assert at_worst is not None
    assert worst["recall@1"] < at_worst
    results = [result for result in run.results if result.direction == way]
    for scores, ranks in ((best, "exact_rank"), (worst, "exact_pessimistic_rank")):
        of_queries = np.array([getattr(result, ranks) for result in results])
        assert scores["recall@1"] == pytest.approx(100 * np.mean(of_queries == 1))
        assert scores["mean_average_precision"] == pytest.approx(100 * np.mean(1 / of_queries))
    assert mine == pytest.approx(100 * np.mean([result.rank == 1 for result in results]))
    assert all(result.top[0].positive == (result.rank == 1) for result in run.results)
    assert "mean_average_precision" not in exact.scores["image-to-text"]  # ranks of the other captions are not fetched
    lines = table.split(f"\n{way}\n")[1].splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("  qdrant-exact"))
    assert lines[row + 1].split()[:4] == ["all", "ties", "lost", f"{worst['recall@1']:.2f}"]
    assert "all ties lost" in (tmp_path / "run/report.html").read_text()


def test_the_same_photo_many_times(call: Call, tmp_path: Path) -> None:
    """Ties are reported beside every figure that they touch; those between an image's own sentences touch none."""
    images, captions = related(40, 5, 32, noise=2.0)
    captions = np.repeat(captions[::5], 5, axis=0)  # five times the same sentence for each image
    index = EdgeIndex(tmp_path / "index")
    store(index, plain_spec, np.repeat(images[:1], 40, axis=0), captions)
    index.close()
    code, printed, err = call("eval", "run", "--path", tmp_path / "index", "--folds", 2, "--resamples", 100, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert set(found["pessimistic"]) == {"text-to-image"}
    assert found["text-to-image"]["recall@1"] == 100
    worst = found["pessimistic"]["text-to-image"]
    assert (worst["queries"], worst["recall@1"], worst["recall@10"], worst["mean_rank"]) == (100, 0, 0, 20)
    assert worst["mean_average_precision"] == pytest.approx(5)
    assert worst["proportion@10"] == 0
    assert found["columns"][1]["pessimistic"]["text-to-image"]["mean_rank"] == 20
    assert found["folds"]["text-to-image"]["recall@10"] == 100
    assert found["folds"]["pessimistic"]["text-to-image"]["recall@10"] == 100
    assert found["folds"]["pessimistic"]["text-to-image"]["mean_rank"] == 10


def test_copies_of_a_killed_run_are_nobodys_data_set(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    store(index, make_spec, *related(10, 5, 8, noise=0.5))
    left = make_spec(dim=8, dataset=f"{dataset}.trial-hnsw-0a1b2c3d")
    index.create(left)
    assert only_dataset(index) == dataset
    assert left.collection not in chosen_collections(index, [])
    assert chosen_collections(index, [left.dataset]) == [left.collection]
