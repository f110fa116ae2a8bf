"""The model of a run, once for each device, loaded only when something has to be encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from search.encoder.clip import ClipEncoder


class LazyEncoders(Sequence["ClipEncoder"]):
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
