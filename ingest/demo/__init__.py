"""A generated, captioned data set and a tiny CLIP trained on it: the whole system without a download."""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parent / "model"  # load it with SentenceTransformer(str(MODEL))
