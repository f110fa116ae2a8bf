"""Count numbers in logarithmic bins."""

from __future__ import annotations

from eval.protocol import Ids

Bin = tuple[int, int, int]
"""The lowest and the highest number of a bin, and how many numbers are in it."""


def log_bins(numbers: Ids, lowest: int, highest: int) -> list[Bin]:
    """Return bins that end at 0 (if `lowest` is 0), 1, 2, 5, 10, 20, ... and at `highest`.

    The first bin begins at `lowest`, 0 or 1; `numbers`, int64 (n,), are from `lowest` to `highest`.
    """
    steps = [0, *(digit * 10**power for power in range(len(str(highest))) for digit in (1, 2, 5))]
    ends = [*(end for end in steps if lowest <= end < highest), highest]
    starts = [lowest, *(end + 1 for end in ends[:-1])]
    return [
        (low, high, int(((numbers >= low) & (numbers <= high)).sum())) for low, high in zip(starts, ends, strict=True)
    ]
