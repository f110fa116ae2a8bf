"""The model of a run: which one it is, and loading it, once for each device, when something has to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import overload

from ingest.options import Embedding
from search.encoder.clip import DEFAULT_MODEL, ClipEncoder
from search.encoder.remembered import KnownEncoder, ModelFiles
from search.index import CollectionSpec


class Model:
    """The model that the options of a run name, or else the one that made the data set.

    Args:
        options: the options of the run.
        stored: the specification of the stored images, None if the data set does not exist yet.
    """

    def __init__(self, options: Embedding, stored: CollectionSpec | None) -> None:
        self._options, self._stored = options, stored
        stored_text_model = str(stored.text_model) if stored and stored.text_model else None
        self.name = options.model or (str(stored.model_id) if stored else DEFAULT_MODEL)
        self._text_model = options.text_model or stored_text_model
        self._prompt = options.prompt or (stored.prompt if stored else None)
        self.devices = options.devices.split(",")

    def known(self) -> KnownEncoder | None:
        """Return what an earlier run has found out about the model, if that is all that this run must know to begin.

        Return None if the collection is new or everything is encoded again, or if another dtype is requested.

        Raises:
            EncoderError: the model does not exist.
        """
        if self._stored is None or self._options.force or self._options.dtype not in ("auto", self._stored.dtype):
            return None
        files = self._files()
        return files.recall(dtype=self._stored.dtype, prompt=self._prompt) if files else None

    def load(self) -> list[ClipEncoder]:
        """Load the model once for each device.

        Raises:
            EncoderError: it cannot be loaded.
        """
        load = partial(
            ClipEncoder,
            self.name,
            text_model=self._text_model,
            trust_remote_code=self._options.trust_remote_code,
            dtype=self._options.dtype,
            batch_size=self._options.batch_size,
            prompt=self._prompt,
        )
        files = self._files()
        device, *others = self.devices
        first = load(device=device)
        if files is not None and files == self._files():  # they have not changed meanwhile
            files.remember(first)
        again = partial(load, dim=first.dim, padding=first.padding, roles=first.roles)
        return [first, *(again(device=other) for other in others)]

    def _files(self) -> ModelFiles | None:
        """Return the files of the models; None if code of their own takes part, which may come from elsewhere."""
        return None if self._options.trust_remote_code else ModelFiles.of(self.name, self._text_model)


class LazyEncoders(Sequence[ClipEncoder]):
    """A sequence of encoders, all of which are loaded when one of them is used first.

    Args:
        load: loads the model on each device.
        devices: the number of devices.
    """

    def __init__(self, load: Callable[[], list[ClipEncoder]], devices: int) -> None:
        self._load, self._devices = load, devices
        self._encoders: list[ClipEncoder] | None = None

    @property
    def loaded(self) -> list[ClipEncoder]:
        """The encoders if they have been loaded, otherwise none."""
        return self._encoders or []

    def __len__(self) -> int:
        return self._devices

    @overload
    def __getitem__(self, number: int) -> ClipEncoder: ...
    @overload
    def __getitem__(self, number: slice) -> list[ClipEncoder]: ...
    def __getitem__(self, number: int | slice) -> ClipEncoder | list[ClipEncoder]:
        if self._encoders is None:
            self._encoders = self._load()
        return self._encoders[number]
