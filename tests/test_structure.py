"""The rules that keep the house in order: who may import whom, and what is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from search import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ingest", "search", "eval")
ONLY = {  # who alone may import a library
    "qdrant_edge": {f"search/index/edge/{name}.py" for name in ("config", "filter", "index")},
    "qdrant_client": {
        f"search/index/server/{part}.py"
        for part in ("index", "connection", "failures", "upload", "indexing", "translate", "cluster")
    },
    "grpc": {"search/index/server/failures.py"},
    "pyarrow": {"ingest/transfer/parquet.py", "ingest/transfer/vectors.py"},
    "prometheus_client": {"search/web/metrics.py"},
    "sentence_transformers": {"search/encoder/clip.py", "search/encoder/text_tower.py"},
}
MAY_IMPORT = {"ingest": {"ingest", "search"}, "search": {"search"}, "eval": {"eval", "search"}}
MEASURES_EVERYTHING = "eval/bench/"


@cache
def modules() -> list[tuple[str, ast.Module]]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [(file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())) for file in files]


def imported(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_data_flows_one_way() -> None:
    for file, tree in modules():
        if not file.startswith(MEASURES_EVERYTHING):
            package = file.partition("/")[0]
            assert imported(tree) & set(PACKAGES) <= MAY_IMPORT[package], file


@pytest.mark.parametrize("library", ONLY)
def test_each_engine_has_few_doors(library: str) -> None:
    users = {file for file, tree in modules() if library in imported(tree) and not file.startswith(MEASURES_EVERYTHING)}
    assert users == ONLY[library]


def test_torch_is_imported_only_where_it_is_used() -> None:
    for file, tree in modules():
        at_the_top = {
            name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imported(ast.Module([node], []))
        }
        assert not at_the_top & {"torch", "transformers", "sentence_transformers"}, file


def test_public_exceptions_are_in_one_tree() -> None:
    drawn = re.findall(r"── (\w+)  ", errors.__doc__ or "")
    assert sorted(["CocoSearchError", *drawn]) == errors.__all__
    for file, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and file != "search/errors.py" and not node.name.startswith("_"):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & {"Exception", *errors.__all__}, f"{file} defines {node.name}"


def test_every_package_is_shipped() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        file.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert listed == there


def test_no_module_is_too_long_to_read_in_one_sitting() -> None:
    for file, _ in modules():
        assert len((ROOT / file).read_text().splitlines()) <= 400, file


def test_the_commit_holds_no_large_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            assert (ROOT / name).stat().st_size <= 6 * 1024 * 1024, name


def test_the_files_that_the_guide_names_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    named = [name for name in re.findall(r"`([\w./-]+)`", guide) if "/" in name]
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []
