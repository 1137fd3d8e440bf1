"""A picture of one size shown whole in another: scaled to fit, black around it."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor


class Letterbox:
    """Fits [H, W, 3] R'G'B' pictures of any size into ``width`` x ``height``. Holds one swscale context."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._scaler = VideoReformatter()

    def fit(self, pixels: Tensor) -> Tensor:
        """[H, W, 3] -> [height, width, 3], uint8 or uint16 as it came; the same tensor where the size is right."""
        height, width = int(pixels.shape[0]), int(pixels.shape[1])
        if (width, height) == (self.width, self.height):
            return pixels
        scale = min(Fraction(self.width, width), Fraction(self.height, height))
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        layout = "rgb48le" if pixels.dtype == torch.uint16 else "rgb24"
        picture = av.VideoFrame.from_ndarray(pixels.cpu().numpy(), format=layout)
        scaled = self._scaler.reformat(picture, width=wide, height=high, interpolation=Interpolation.BICUBIC)
        fitted = np.zeros((self.height, self.width, 3), dtype=pixels.cpu().numpy().dtype)
        top, left = (self.height - high) // 2, (self.width - wide) // 2
        fitted[top : top + high, left : left + wide] = scaled.to_ndarray()
        return torch.from_numpy(fitted)
