"""The scores as a table for people and as one JSON object for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.metrics import Ranks, summarise
from eval.protocol import Evaluation
from eval.replay import Agreement

ORACLE, EXACT = "oracle", "qdrant-exact"
COLUMNS = ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found: per direction, the ranks by each engine and how they agree."""

    protocol: Evaluation
    engine: str
    ranks: dict[str, dict[str, Ranks]]
    agreements: dict[str, Agreement]

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Direction -> engine -> metric."""
        return {
            direction: {engine: summarise(ranks) for engine, ranks in by_engine.items()}
            for direction, by_engine in self.ranks.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Qdrant's exact scores by direction, the oracle's under `oracle`, and what they are scores of."""
        scores = self.scores()
        return {
            **{direction: by_engine[EXACT] for direction, by_engine in scores.items()},
            "engine": EXACT,
            "engine_version": self.engine,
            ORACLE: {direction: by_engine[ORACLE] for direction, by_engine in scores.items()},
            "agreement": {
                direction: {
                    "queries": found.queries,
                    "differ_by_rounding": found.rounding,
                    "differ_unexplained": len(found.unexplained),
                }
                for direction, found in self.agreements.items()
            },
            "images": self.protocol.images,
            "captions": self.protocol.captions,
            "captions_per_image": self.protocol.captions_per_image or "all",
            "split": "+".join(self.protocol.splits),
            "dataset": self.protocol.spec.dataset,
            "model": self.protocol.spec.model,
            "notes": list(self.protocol.notes),
        }

    def table(self) -> str:
        """The table that the field prints, with the counts above it and the agreement below."""
        protocol = self.protocol
        kept = "all" if protocol.captions_per_image is None else f"first {protocol.captions_per_image}"
        lines = [
            f"{protocol.spec.dataset}, split {'+'.join(protocol.splits)}: "
            f"{protocol.images:,} images, {protocol.captions:,} captions ({kept} of each image)",
            f"model {protocol.spec.model}",
            "",
            f"{'':<30}" + "".join(f"{column:>13}" for column in COLUMNS),
        ]
        for direction, by_engine in self.scores().items():
            for engine, scores in by_engine.items():
                recalls = "".join(f"{scores[column]:>13.2f}" for column in COLUMNS[:3])
                ranks = f"{scores['median_rank']:>13.1f}{scores['mean_rank']:>13.2f}"
                lines.append(f"{direction:<16}{engine:<14}{recalls}{ranks}")
        lines.append("")
        lines += [f"{direction}: {found}" for direction, found in self.agreements.items()]
        lines.append(f"oracle: exact product of the stored vectors; qdrant-exact: {self.engine}, exact=True")
        return "\n".join(lines + [f"note: {note}" for note in protocol.notes])
