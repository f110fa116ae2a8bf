"""The bench commands, end to end on small sizes: times are the machine's, but what is compared must be equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Call, one_line_error
from contestants import broken, hundred_mebibytes, killed

from eval.bench import corrected, cost, evaluation, overhead, scale, search, serve, vectors
from eval.bench.measure import Measured, measure
from eval.bench.synthetic import space_for
from search.errors import CocoSearchError, EvaluationError
from search.index import open_index
from search.settings import Settings


def test_a_contestant_has_its_own_process_and_peak() -> None:
    ours = np.ones(400 * 2**20, dtype=np.uint8)  # must not count as the contestant's memory
    found = measure(hundred_mebibytes, 7)
    assert ours[-1] == 1
    assert (found.name, found.result) == ("hundred_mebibytes", 7)
    assert 100 < found.peak_mib < 400


def test_a_contestant_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CocoSearchError, match="broken failed"):
        measure(broken, 0)
    assert "on purpose" in capfd.readouterr().err


def test_a_killed_contestant_names_the_signal() -> None:
    with pytest.raises(CocoSearchError, match="killed was killed by SIGBUS"):  # as a full disk does
        measure(killed, 0)


def test_vectors_are_the_same_in_every_process_and_in_blocks() -> None:
    whole = vectors.images(2500, 16)
    assert np.array_equal(np.concatenate(list(vectors.image_blocks(2500, 16))), whole)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.array_equal(vectors.images(2500, 16, seed=1), whole)
    near = vectors.captions_of(whole, np.arange(2500))
    assert (near * whole).sum(axis=1).mean() > 5 * abs((near * whole[::-1]).sum(axis=1).mean())


@pytest.mark.slow
def test_ingest(call: Call, photo_set: Path, clip_folder: Path) -> None:
    options = ["--images", photo_set / "images", "--model", clip_folder, "--count", 4, "--rounds", 1, "--device", "cpu"]
    code, out, err = call("eval", "bench", "ingest", *options, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == ["pipeline", "plain_loop", "forward_alone", "decoding_alone", "captions"]
    assert all(set(run) == {"name", "rate", "peak_mib"} and run["rate"] > 0 for [run] in found.values())


def test_ingest_without_photos_or_model(call: Call, photo_set: Path, tmp_path: Path) -> None:
    assert "no .jpg files" in one_line_error(call("eval", "bench", "ingest", "--images", tmp_path))
    images = photo_set / "images"
    assert "nowhere" in one_line_error(call("eval", "bench", "ingest", "--images", images, "--model", "./nowhere"))


def test_eval(call: Call) -> None:
    small = ["--images", 60, "--captions-per-image", 3, "--dim", 16]
    code, out, err = call("eval", "bench", "eval", *small, "--rounds", 1)
    assert code == 0, err
    assert out.startswith("60 images, 180 captions of 16 dimensions")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["oracle"][2] == "1.00"
    assert len(rows["full_matrix"]) == 3
    assert "eccv_caption" not in rows  # only for COCO's test split

    code, out, err = call("eval", "bench", "eval", *small, "--rounds", 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [len(runs) for runs in found.values()] == [2, 2, 2]
    assert found["oracle"][0]["recalls"] == pytest.approx(found["full_matrix"][1]["recalls"])
    assert all(run["peak_mib"] > 10 for runs in found.values() for run in runs)


@pytest.mark.slow
def test_eccv_caption_finds_the_same_recalls() -> None:
    pytest.importorskip("eccv_caption")
    job = evaluation.Job(5000, 5, 32)
    assert evaluation.eccv_caption in evaluation.contestants(job)
    assert evaluation.eccv_caption(job).recalls == pytest.approx(evaluation.oracle(job).recalls, abs=1e-6)


def test_contestants_that_disagree_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        name: [Measured(name, evaluation.Result(1.0, recalls), 100.0)]
        for name, recalls in {"oracle": (30.0, 60.0), "full_matrix": (30.0, 60.2), "bootstrap": ()}.items()
    }
    monkeypatch.setattr(evaluation, "in_turn", lambda *_: wrong)
    with pytest.raises(EvaluationError, match="full_matrix"):
        evaluation.compare(evaluation.Job(1, 1, 2), 1)


@pytest.mark.parametrize("exact", [pytest.param(True, marks=pytest.mark.slow), False])
def test_both_engines_answer(exact: bool) -> None:
    job = search.Job(points=40, dim=8, queries=3, exact=exact)
    found = search.as_json(job, search.compare(job, 1))
    assert (found["points"], found["exact"]) == (40, exact)
    for engine in ("embedded", "local_mode"):
        [run] = found[engine]
        assert run["found"] == 1  # of the exact ten best
        assert run["p95_ms"] >= run["median_ms"] > 0
    assert min(found["embedded"][0]["pages"][f"{way}_ms"] for way in ("plain", "corrected")) > 0


@pytest.mark.slow
def test_search(call: Call) -> None:
    sizes = ["--exact", 40, "--hnsw", 50, "--queries", 3, "--dim", 8, "--rounds", 1]
    code, out, err = call("eval", "bench", "search", *sizes, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [(job["points"], job["exact"]) for job in found["engines"]] == [(40, True), (50, False)]
    [start] = found["starts"]
    [page] = found["pages"]
    assert min(*start.values(), *page.values()) > 0


def test_the_overhead_table_by_hand() -> None:
    start = overhead.Start(command=0.5, served=0.6, model=3.0, bare=2.0, floor=0.4, python=0.02)
    pages = [overhead.Page(20.0, 5.0, 4.0), overhead.Page(10.0, 5.0, 6.0)]
    rows = overhead.table("some-model", overhead.Overhead([start] * 3, pages)).splitlines()
    assert rows[1].split("  ")[-1].split() == ["0.50", "s,", "0.25", "of", "sentence-transformers", "alone"]
    assert "1.50 of" in rows[3]
    assert "15.0 ms" in rows[7]
    assert "encoding takes 33%" in rows[-1]


def test_the_latency_table_names_the_method() -> None:
    def measured(indexed: int) -> dict[str, list[Measured[search.Latency]]]:
        one = search.Latency(2.0, 3.0, 1.5, 10.0, 20.0, indexed, 0.95, 99.0)
        other = replace(one, median_ms=50.0, found=1.0, peak_mib=77.0)
        return {"embedded": [Measured("embedded", one, 120.0)], "local_mode": [Measured("local_mode", other, 80.0)]}

    job = search.Job(6000, 512, 100, exact=False)
    head, _, ours, theirs, last = search.table(job, measured(6000)).splitlines()
    assert "HNSW;" in head
    assert ours.split() == ["embedded", "2.00", "3.00", "1.50", "1.0", "95.0%", "10.0", "20.0", "99"]
    assert theirs.split()[4] == "25.0"
    assert "the search takes 75%" in last
    assert "a scan" in search.table(job, measured(0))
    assert "exact;" in search.table(replace(job, exact=True), measured(0))


def test_the_line_about_corrected_pages() -> None:
    pages = [corrected.Pages(1.0, cost, cost - 1, 1.0, 1.25, 0.25) for cost in (1.5, 1.25, 9.0)]
    line = corrected.row(pages)
    assert "1.00 ms plain, 1.50 ms corrected for hubness (+0.50)" in line
    assert "1.00 and 1.25 ms (+0.25)" in line


def test_disk_space_is_checked_before_the_engine_needs_it() -> None:
    with pytest.raises(CocoSearchError, match="are free on the disk"), space_for(10**12, 512):
        pytest.fail("there cannot be so much room")


def test_fits_of_hand_made_data() -> None:
    straight = cost.line([10, 20, 40], [107, 207, 407])
    assert (straight.a, straight.b, straight.worst) == pytest.approx((7, 10, 0))
    assert straight.at(100) == pytest.approx(1007)
    squared = cost.power([10, 20, 40], [300, 1200, 4800])
    assert (squared.a, squared.b, squared.worst) == pytest.approx((3, 2, 0))
    assert squared.at(100) == pytest.approx(30_000)
    assert cost.power([10, 20, 40], [300, 1200, 4800], least=1) == squared
    # 8, 4 and 8 at 1, 2 and 4 look like n^0, and as a n they are best with a = (8 * 2 * 2) ** (1 / 3).
    held = cost.power([1, 2, 4], [8, 4, 8], least=1)
    assert (held.a, held.b, held.held) == pytest.approx((32 ** (1 / 3), 1, True))
    assert held.at(8) == pytest.approx(8 * 32 ** (1 / 3))
    # Through (1, 1), (2, 2) and (3, 6) the best line is -2 + 2.5 n, which is -2 + 2.5 = 0.5 where 1 was measured.
    crooked = cost.line([1, 2, 3], [1, 2, 6])
    assert (crooked.a, crooked.b, crooked.worst) == pytest.approx((-2, 2.5, 0.5))
    assert str(crooked) == "-2 + 2.5 n (at most 50% off)"
    assert [crooked.basis(n) for n in (2, 2.5, 4, 0.5)] == ["measured", "interpolated", "extrapolated", "extrapolated"]
    with pytest.raises(EvaluationError, match="2 sizes"):
        cost.line([1, 2, 1], [1, 2, 1])


def samples(*sizes: int, memory: bool = True) -> list[cost.Sample]:
    """10 ms a point to upload, a quarter of a millisecond times n^2 / 1000 to build, 2048 bytes a point in memory."""
    return [
        cost.Sample(
            points=n,
            upload_seconds=n / 100,
            build_seconds=n**2 / 4_000_000,
            median_ms=2.0,
            p95_ms=3.0,
            found=1.0,
            indexed=n,
            disk_bytes=2**20 + 4096 * n if memory else None,
            memory_bytes=2048 * n if memory else None,
        )
        for n in sizes
    ]


def test_the_needs_of_more_vectors_by_hand() -> None:
    growth = cost.Growth.of(samples(1000, 2000, 4000))
    needs = cost.need("many", 8 * 2**20, growth, node_memory_gib=5)
    # 8 Mi vectors of 2 KiB are 16 GiB, which fill 4 nodes of 5 GiB with 2 Mi vectors each; 32 GiB and 1 MiB on disks.
    assert needs.memory_gib is not None
    assert needs.disk_gib is not None
    assert needs.memory_gib.value == pytest.approx(16)
    assert needs.disk_gib.value == pytest.approx(32 + 2**-10)
    assert (needs.nodes, needs.share) == (4, 2 * 2**20)
    assert needs.upload_hours.value == pytest.approx(2 * 2**20 / 100 / 3600)
    assert needs.build_hours.value == pytest.approx((2 * 2**20) ** 2 / 4_000_000 / 3600)
    assert needs.query_ms.value == pytest.approx(2)
    assert needs.upload_hours.basis == "extrapolated"
    assert (needs.memory_gib.times, needs.upload_hours.times) == (8 * 2**20 / 4000, 2 * 2**20 / 4000)

    known = cost.need("few", 2000, growth, node_memory_gib=5)
    assert (known.nodes, known.build_hours.basis, known.build_hours.times) == (1, "measured", 0.5)
    assert known.build_hours.value == pytest.approx(1 / 3600)


def test_the_shortest_times_of_several_rounds_count() -> None:
    [one] = samples(1000)
    slow_build, slow_query = replace(one, build_seconds=99.0, median_ms=1.5), replace(one, median_ms=9.0, p95_ms=9.9)
    assert scale.shortest_times([slow_build, slow_query]) == replace(one, median_ms=1.5)


def test_a_server_does_not_report_its_memory_and_disk() -> None:
    needs = cost.need("many", 10**9, cost.Growth.of(samples(1000, 2000, 4000, memory=False)), node_memory_gib=1)
    assert (needs.memory_gib, needs.disk_gib, needs.nodes) == (None, None, 1)


def test_the_scale_table_marks_extrapolations() -> None:
    measured = tuple(samples(1000, 2000, 4000))
    growth = cost.Growth.of(measured)
    needs = (cost.need("here", 4000, growth, 64), cost.need("far", 10**8, growth, 64))
    lines = scale.table([scale.Scale("embedded", "none", measured, growth, needs)], 512, 64).splitlines()
    here, far = (next(line for line in lines if f" {name} " in line) for name in ("here", "far"))
    assert "~" not in here
    assert far.split()[4:] == ["~191", "~381", "~3", "~92.6", "~77,160", "~2.0", "8,333", "x"]
    assert "embedded  plain      4,000       100      4.0      2.00    3.00  100.0%    4358    2048" in lines


def test_scale(call: Call) -> None:
    sizes = [option for size in (100, 150, 200) for option in ("--points", size)]
    wishes = ["--dim", 16, "--queries", 5, "--quantization", "int8", "--node-memory", 8]
    code, out, err = call("eval", "bench", "scale", *sizes, *wishes, "--json")
    assert code == 0, err
    plain, int8 = json.loads(out)
    for way, name in ((plain, "none"), (int8, "int8")):
        assert way["quantization"] == name
        assert (
            [one["points"] for one in way["samples"]] == [one["indexed"] for one in way["samples"]] == [100, 150, 200]
        )
        assert all(one["found"] > 0.9 and one["disk_bytes"] > 100 * 16 * 4 for one in way["samples"])
        assert [need["name"] for need in way["needs"]] == ["COCO", "10 million", "LAION-400M"]
        assert way["needs"][0]["build_hours"]["basis"] == "extrapolated"
        assert way["needs"][0]["memory_gib"]["times"] == 740_000 / 200


@pytest.mark.slow
def test_scale_leaves_nothing_on_a_server(
    call: Call, local_grpc_server: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, grpc = local_grpc_server
    url = f"http://127.0.0.1:{rest}"
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(grpc))
    index = open_index(Settings(qdrant_url=url, qdrant_grpc_port=grpc))
    before = index.collections()
    sizes = [option for size in (100, 150, 200) for option in ("--points", size)]
    code, out, err = call("eval", "bench", "scale", *sizes, "--dim", 8, "--queries", 5, "--url", url)
    assert code == 0, err
    assert "not measured" in out
    measured = [line.split()[:3] for line in out.splitlines() if "%" in line and "off)" not in line]
    sizes_of = [(engine, size) for engine, _, size in measured]
    assert sizes_of == [(engine, size) for engine in ("embedded", "server") for size in ("100", "150", "200")]
    assert index.collections() == before
    index.close()


def test_two_sizes_are_too_few(call: Call) -> None:
    code, _, err = call("eval", "bench", "scale", "--points", 100, "--points", 200)
    assert code == 2
    assert "different sizes" in " ".join(err.split())


def test_the_serve_table_by_hand() -> None:
    loads = [serve.Load("healthz", 16, 500.0, 2.0, 3.0, 0), serve.Load("text", 16, 125.0, 8.0, 20.0, 7)]
    rows = serve.table("some-model", [serve.Round(1000.0, 700.0, loads)]).splitlines()
    assert "1,000 queries a second" in rows[1]
    assert "700 texts a second, 0.70 of the engine" in rows[2]
    assert rows[4].split() == ["healthz", "16", "500", "2.0", "ms", "3", "ms", "0", "0.50", "1.00"]
    assert rows[5].split() == ["text", "16", "125", "8.0", "ms", "20", "ms", "7", "0.12", "0.25"]


@pytest.mark.slow  # it fills an index of 5,000 photos
def test_serve_is_measured_beside_the_engine_and_the_http_layer(call: Call, clip_folder: Path) -> None:
    options = ("--connections", 2, "--seconds", 0.3, "--model", clip_folder)
    code, out, _ = call("eval", "bench", "serve", *options, "--json")
    assert code == 0
    [measured] = json.loads(out)
    assert measured["engine_per_second"] > 0
    assert measured["batch_per_second"] > 0
    loads = measured["loads"]
    assert [load["request"] for load in loads] == ["healthz", "text", "image id", "picture"]
    for load in loads:
        assert load["connections"] == 2
        assert load["refused"] == 0
        assert load["per_second"] > 0
        assert load["p99_ms"] >= load["p50_ms"] > 0
