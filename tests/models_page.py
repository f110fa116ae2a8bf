"""docs/models.md, from eval/report/models.json and published.json. `make docs` writes it; test_docs.py compares it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval.report.published import PUBLISHED_FILE, published

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs/models.md"
DATA = ROOT / "eval/report/models.json"
UNKNOWN = "?"
UNIT = 8.82  # GFLOPs of one photo with ViT-B/32

INTRODUCTION = f"""\
# Choosing a model

`--model` of `ingest run` takes any sentence-transformers model that embeds photos and texts; these are the ones that
people ask for. See [how models are recorded](ingestion.md#models). `make docs` generates this page from
[models.json](../eval/report/models.json) and [{PUBLISHED_FILE}](../eval/report/{PUBLISHED_FILE}).

- **dim**: dimensions. The disk and memory of an index grow with them.
- **M**: parameters of both towers, in millions.
- **cost**: arithmetic of one photo, as a multiple of ViT-B/32's; on a CPU, nearly the time that ingestion takes.
- **t2i, i2t**: published recall@1 on COCO's 5K test split, in percent, text-to-image and image-to-text. `eval run`
  shows your own figures beside them.
- `{UNKNOWN}`: not known here. Check the licence on the model's page before you use it.

"""

ADVICE = """
## Which one

- **English, no GPU**: `laion/CLIP-ViT-B-32-laion2B-s34B-b79K` costs the same as the default and finds the right photo
  first for 39.3% of the captions instead of 30.4%.
- **Better answers**: a SigLIP B/16 model, for about four times the arithmetic.
- **Other languages, without embedding the photos again**: `search text --text-model clip-ViT-B-32-multilingual-v1`. See
  [Other languages](ingestion.md#other-languages).
- **Other languages, from the start**: SigLIP 2, or jina-clip-v2 if its licence allows your use.

To compare two models on your own photos, ingest them under two names:

```
python -m ingest run --annotations coco.json --images coco --dataset b32
python -m ingest run --annotations coco.json --images coco --dataset siglip --model google/siglip-base-patch16-224
python -m eval run --dataset b32 --out runs/b32
python -m eval run --dataset siglip --out runs/siglip
python -m eval compare runs/b32 runs/siglip
```

## Sources

Dimensions, parameters and cost are from open_clip, docs/model_profile.csv, unless the last column names another source.
The cost of a text model is that of the photos.

"""


def page() -> str:
    """Return the text of docs/models.md."""
    rows = {row.name: row for row in published()}
    models: list[dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["models"]
    lines = ["| model | dim | M | cost | t2i | i2t | licence | languages |", "|---|---|---|---|---|---|---|---|"]
    sources = ["| model | scores | the rest |", "|---|---|---|"]
    for model in models:
        row = rows[model["published"]] if model["published"] else None
        cost = f"{model['gflops'] / UNIT:.1f}" if model["gflops"] else None
        scores = [row.scores[way]["recall@1"] if row else None for way in ("text-to-image", "image-to-text")]
        cells = [model["dimensions"], model["parameters"], cost, *scores, model["licence"], model["languages"]]
        name = f"`{model['model']}`"
        lines.append(f"| {name} | {' | '.join(UNKNOWN if cell is None else str(cell) for cell in cells)} |")
        sources.append(f"| {name} | {row.source if row else UNKNOWN} | {model['notes']} |")
    return "\n".join([INTRODUCTION + lines[0], *lines[1:], ADVICE + sources[0], *sources[1:]]) + "\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(f"wrote {FILE}")
