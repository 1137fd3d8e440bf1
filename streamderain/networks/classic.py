"""Rain removal without anything learned: the aligned minimum where it rains, little where it does not.

A streak covers a place for one frame and only ever brightens it (Garg & Nayar 2004), so of three frames that lie on
each other the darkest is nearly free of rain. Alone it harms what is dry: noise makes it dark, and whatever uncovers
what was behind it leaves a shadow. So it is taken as far as the neighbourhood shows rain: spikes, brighter than both
aligned frames, that no dips answer. Where it does not, the frame is kept from rising above the brighter of the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.preprocess import estimate_motion, same_scene, warp

State = tuple[Tensor, ...]

_WINDOW = 17  # px of the neighbourhood
_DRY, _RAIN = 0.003, 0.02  # mean spike of a neighbourhood that is dry, and of one where the minimum is taken


class Classic(nn.Module):
    """A causal filter over three aligned frames: baseline, and fallback without weights.

    The state is (previous, before, keep): the last frame and the one before, [B, 3, H, W] in 0..1, laid on the present;
    and 0 or 1 [B, 1, 1, 1]. With ``keep`` 0, at the start and after a cut, the frame passes as it is.
    """

    stride = 8

    def zero_state(self, batch: int, height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first frame."""
        picture = torch.zeros(batch, 3, height, width, device=device, dtype=dtype)
        return picture, picture, torch.zeros(batch, 1, 1, 1, device=device, dtype=dtype)

    @staticmethod
    def align(rainy: Tensor, state: State) -> State:
        """Lay the state on the new frame, and drop it at a cut."""
        previous, before, keep = state
        pictures = warp(torch.cat((previous, before), 1), estimate_motion(rainy, previous))
        keep = keep * same_scene(rainy, pictures[:, :3]).to(keep.dtype)[:, None, None, None]
        return (*torch.split(pictures, 3, 1), keep)

    def forward(self, rainy: Tensor, previous: Tensor, before: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W], 0..1, and the state aligned to it -> the clean frame, 0..1, and the new state."""
        previous = rainy + keep * (previous - rainy)
        before = rainy + keep * (before - rainy)
        darker, brighter = torch.minimum(previous, before), torch.maximum(previous, before)
        spikes, dips = F.relu(rainy - brighter), F.relu(darker - rainy)
        evidence = F.avg_pool2d(
            (spikes - dips).mean(1, keepdim=True), _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False
        )
        share = ((evidence - _DRY) / (_RAIN - _DRY)).clamp(0.0, 1.0)
        gentle = torch.minimum(rainy, brighter)
        clean = gentle + share * (torch.minimum(rainy, darker) - gentle)
        return clean, rainy, previous, torch.ones_like(keep)
