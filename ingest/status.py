"""The command `status`, which lists the collections of the index."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer

from search.cli.command import DatasetOption, JsonOption, PathOption, UrlOption, print_json, warn_of_silent_nodes
from search.encoder.cache import cache_folder, tower_bytes
from search.settings import load_settings

if TYPE_CHECKING:
    from search.index import CollectionInfo, CollectionSpec, HubnessSpec, ReadIndex


def status(
    path: PathOption = None,
    url: UrlOption = None,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the collections with their points, indexed vectors, settings, model and data set."""
    from search.index import collection_name, open_index

    with closing(open_index(load_settings(path, url))) as index:
        silent = index.silent_nodes()
        heading = "\n".join([f"{index.place} ({index.engine})", *(f"does not answer: {node}" for node in silent)])
        if as_json:
            warn_of_silent_nodes(index)
        elif silent:  # before the rest, which may fail without these nodes
            typer.echo(heading)
        names = index.collections()
        if dataset is not None:
            of_dataset = [collection_name(dataset, "captions"), collection_name(dataset, "images")]
            names = [name for name in of_dataset if name in names] or of_dataset
        infos = [index.info(name) for name in names]
        if as_json:
            print_json([_as_json(index, info) for info in infos], indent=1)
            return
    if not silent:
        typer.echo(heading)
    for info in infos:
        typer.echo(_describe(info))
    if not infos:
        typer.echo("no collections yet: create them with `python -m ingest run`")


def _as_json(index: ReadIndex, info: CollectionInfo) -> dict[str, Any]:
    from search.index import Where

    by_split = {split: index.count(info.name, where=Where(splits=(split,))) for split in info.spec.splits}
    return {
        "place": index.place,
        "engine": index.engine,
        "silent_nodes": index.silent_nodes(),
        **info.as_json(),
        "points_by_split": by_split,
        "disk_bytes": index.disk_bytes(info.name),
        "text_tower_bytes": _tower_bytes(info.spec),
    }


def _describe(info: CollectionInfo) -> str:
    spec = info.spec
    sizes = ", ".join(
        f"{name} {size.images if spec.kind == 'images' else size.captions:,}" for name, size in spec.splits.items()
    )
    settings = ", ".join(
        f"{name} {value:,}" if type(value) is int else f"{name} {value}"
        for name, value in info.settings.items()
        if value not in (None, False)
    )
    indexed = f"{info.indexed_vectors:,}" if info.indexed_vectors else "0 (a small collection is scanned: exact)"
    return (
        f"\n{info.name}\n"
        f"  points           {info.points:,}\n"
        f"  indexed vectors  {indexed}\n"
        f"  settings         {settings}\n"
        + (f"  copies           {_copies(info)}\n" if info.shards_short_of_copies is not None else "")
        + (f"  pending          {info.pending}\n" if info.pending else "")
        + (f"  hubness          {_hubness(spec.hubness)}\n" if spec.hubness else "")
        + f"  model            {spec.model_id} ({spec.dim} dimensions, {spec.dtype}{', imported' * spec.imported})\n"
        + (f"  text model       {spec.text_model}\n" if spec.text_model else "")
        + _text_tower(spec)
        + f"  data set         {spec.dataset}: {sizes}\n"
        f"  photos           {spec.photos}"
    )


def _hubness(stored: HubnessSpec) -> str:
    if not stored.complete:
        return "incomplete: run `python -m ingest hubness` again"
    use = f"searches are corrected with alpha {stored.alpha:g}" if stored.alpha else "not used"
    return f"{stored.points:,} images by {stored.count:,} references, {use}"


def _text_tower(spec: CollectionSpec) -> str:
    size = _tower_bytes(spec)
    return f"  text tower       {size / 1e6:,.1f} MB in {cache_folder()}\n" if size else ""


def _tower_bytes(spec: CollectionSpec) -> int | None:
    return tower_bytes(spec.weights) if spec.has_plain_texts else None


def _copies(info: CollectionInfo) -> str:
    shards, factor = info.settings["shards"] or 1, info.settings["replicas"] or 1
    if info.shards_short_of_copies:
        return f"{info.shards_short_of_copies} of {shards} shards have fewer than {factor}"
    return f"{factor} of each shard"
