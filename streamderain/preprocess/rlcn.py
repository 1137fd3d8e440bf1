"""Rectified local contrast normalisation: where a pixel is brighter than its surroundings, by how many deviations."""

from __future__ import annotations

from torch import Tensor, nn

from streamderain.preprocess.image import at_least_single
from streamderain.preprocess.window import check_window, window_count, window_mean


def rlcn(image: Tensor, *, window: int = 9, epsilon: float = 1e-5) -> Tensor:
    """L = min(max(I - mean, 0) / (sigma + eps), 1) over a window, each channel by itself (paper B, eq. 3-1).

    Outside the image there is nothing: the mean is over the pixels that are there, the variance divides by one less.
    ``epsilon`` stands inside the root and beside it, and the result is clamped at 1, both as in ECNet's own code
    (Li et al., WACV 2022), where the paper took it from.

    Args:
        image: [B, C, H, W], 0..1, any float dtype; statistics are taken in float32 at least.
        window: side of the square, px, odd.
        epsilon: what keeps flat regions from dividing by zero.

    Returns:
        [B, C, H, W], 0..1, in the dtype of ``image``.

    Raises:
        ValueError: if ``window`` is even or below 3, or for what is no such image.
    """
    check_window(window)
    values = at_least_single(image) - 0.5  # about zero, so that the difference of squares keeps its digits
    mean = window_mean(values, window)
    count = window_count(image.shape[-2], image.shape[-1], window, like=values)
    spread = (window_mean(values * values, window) - mean * mean).clamp_min(0.0)
    deviation = (spread * (count / (count - 1).clamp_min(1.0)) + epsilon).sqrt()
    return ((values - mean) / (deviation + epsilon)).clamp(0.0, 1.0).to(image.dtype)


class RLCN(nn.Module):
    """``rlcn`` with its constants, [B, C, H, W] -> [B, C, H, W]; a submodule of the network that it feeds."""

    def __init__(self, window: int = 9, epsilon: float = 1e-5) -> None:
        super().__init__()
        check_window(window)
        self.window, self.epsilon = window, epsilon

    def forward(self, image: Tensor) -> Tensor:
        return rlcn(image, window=self.window, epsilon=self.epsilon)

    def extra_repr(self) -> str:
        return f"window={self.window}, epsilon={self.epsilon}"
