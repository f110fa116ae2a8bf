"""Determine the dimensions, text padding and roles of a model by encoding a few photos and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from search.encoder.hub import first_line
from search.encoder.images import UNREADABLE
from search.encoder.properties import ROLE_PROMPTS
from search.errors import EncoderError

if TYPE_CHECKING:
    import torch

    from search.encoder.clip import ClipEncoder

    EmbedImages = Callable[[list[Image.Image]], torch.Tensor]
    EmbedTexts = Callable[[list[str]], torch.Tensor]

SAME = 1e-4  # greatest distance of two unit vectors that are equal except for rounding, in float32
SHORT_TEXT, LONG_TEXT = "a dog", "a photo of a dog on a beach " * 20


def probe(encoder: ClipEncoder, embed_images: EmbedImages, embed_texts: EmbedTexts, roles: bool | None) -> None:
    """Set `dim`, `padding` and `roles` of an encoder whose weights are float32.

    Inputs that are encoded alone are compared with the same inputs in a batch of two.

    Args:
        embed_images, embed_texts: return float32 (n, dim), with the current `padding` and `role` of the encoder.
        roles: whether the role makes a difference, if that is known.

    Raises:
        EncoderError: the model does not encode both images and texts, or the vector of an input varies.
    """
    import torch

    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TensorFloat-32 is too coarse
            _compare_images(encoder, embed_images, embed_texts)
            encoder.roles = _tells_roles_apart(encoder, embed_texts) if roles is None else roles
            _choose_padding(encoder, embed_texts)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise EncoderError(
            f"{encoder.names} does not embed both images and texts ({first_line(error)}): "
            "use a CLIP-like sentence-transformers model"
        ) from error


def _compare_images(encoder: ClipEncoder, embed_images: EmbedImages, embed_texts: EmbedTexts) -> None:
    photos = [Image.new("RGB", (64, 48), "grey"), Image.new("RGB", (48, 96), "olive")]
    image, pair = embed_images(photos[:1]), embed_images(photos)
    text = embed_texts([SHORT_TEXT])
    if image.shape != text.shape:
        remedy = "a text model made for this model" if encoder.text_model_id else "a CLIP-like model"
        raise EncoderError(
            f"{encoder.names} embeds images in {image.shape[1]} dimensions and texts in {text.shape[1]}: use {remedy}"
        )
    encoder.dim = image.shape[1]
    if image.isnan().any() or text.isnan().any():
        raise EncoderError(
            f"{encoder.names} gives no usable vector for a plain photo or a short text: it may be damaged"
        )
    if not _same(image, pair[:1]):
        raise EncoderError(f"{encoder.name} embeds a photo differently in a batch: use another model")


def _tells_roles_apart(encoder: ClipEncoder, embed_texts: EmbedTexts) -> bool:
    """Return whether the model encodes a text differently as a query and as a document."""
    vectors = []
    try:
        for role in ROLE_PROMPTS:
            encoder.role = role
            vectors.append(embed_texts([SHORT_TEXT]))
    except UNREADABLE:  # by a router without such routes
        return False
    finally:
        encoder.role = None
    return not _same(*vectors)


def _choose_padding(encoder: ClipEncoder, embed_texts: EmbedTexts) -> None:
    """Set `padding` to full length if the vector of a text otherwise depends on its batch."""
    if _same_in_a_batch(embed_texts):
        return
    encoder.padding = "max_length"
    if encoder.limit is None or not _same_in_a_batch(embed_texts):
        raise EncoderError(
            f"{encoder.names} embeds a text differently in a batch with a longer one, even with all "
            "texts padded to full length: use another model"
        )


def _same_in_a_batch(embed_texts: EmbedTexts) -> bool:
    """Return whether SHORT_TEXT has the same vector alone and in a batch with a longer text."""
    return _same(embed_texts([SHORT_TEXT]), embed_texts([SHORT_TEXT, LONG_TEXT])[:1])


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return float((left - right).norm()) <= SAME
