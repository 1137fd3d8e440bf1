"""A network that changes nothing: what is left when it runs is decoding, colour and encoding."""

from __future__ import annotations

from torch import Tensor

from streamderain.networks.single_image import Restoration, SingleImage


class Identity(SingleImage):
    """Returns the frame as it came; no state, no weights."""

    def restore(self, rainy: Tensor) -> Restoration:
        return Restoration(stages=(rainy,))

    def forward(self, rainy: Tensor) -> tuple[Tensor]:
        return (rainy,)
