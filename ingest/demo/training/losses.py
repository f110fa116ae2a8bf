"""The two losses of the tiny CLIP's training, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IMPOSSIBLE = -1e4  # a score that adds nothing to a logsumexp; minus infinity would make gradients NaN


def contrastive(images: Tensor, captions: Sequence[Tensor], scale: Tensor) -> Tensor:
    """Return CLIP's loss (Radford et al. 2021): row i of each of `captions` (n, d) belongs to row i of `images`."""
    import torch
    from torch.nn.functional import cross_entropy

    target = torch.arange(len(images))
    losses = []
    for each in captions:
        scores = scale * images @ each.T
        losses += [cross_entropy(scores, target), cross_entropy(scores.T, target)]
    return torch.stack(losses).mean()


def ranking(scores: Tensor, fits: Tensor) -> Tensor:
    """Return the loss of phrases that fit any number of images: those that fit should score above all that do not.

    `scores` and `fits` (bool) are (phrases, n). Positives are not compared with each other, as in the decoupled
    loss of Yeh et al. 2022. The loss is half the mean over phrases plus half the mean over images, of those with a
    positive.
    """
    from torch.nn.functional import softplus

    total = scores.new_zeros(())
    for axis in (0, 1):
        others = scores.masked_fill(fits, IMPOSSIBLE).logsumexp(dim=axis, keepdim=True)
        each = softplus(others - scores) * fits
        counts = fits.sum(dim=axis)
        total = total + (each.sum(dim=axis) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return total / 2
