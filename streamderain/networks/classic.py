"""Rain removal without anything learned: the minimum over aligned frames, as far as it rains.

A streak covers a place for one frame and only ever brightens it (Garg & Nayar 2004), so of three frames that lie on
each other the darkest is nearly free of rain. Alone it harms what is dry: noise makes it dark, and whatever uncovers
what was behind it leaves a shadow. So it is taken as far as the neighbourhood shows rain: spikes, brighter than both
aligned frames, that no dips answer. On held-out scenes the median left 4 dB more rain, and the bare minimum spoiled dry
clips (32 dB to the input instead of 45).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamderain.networks.streaming import State
from streamderain.preprocess import Past, look_back

_CELL, _CELLS = 8, 5  # px; a neighbourhood is five cells wide
_RAIN = 0.01  # mean of spikes less dips where the minimum is taken whole; at 0 nothing is


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

    @classmethod
    def align(cls, rainy: Tensor, state: State) -> State:
        """Lay the state on the new frame, and drop it at a cut."""
        return cls.lay(state, look_back(rainy, *state))

    @staticmethod
    def lay(state: State, past: Past) -> State:
        """``align`` where the frame's past is known already: it is all that there is."""
        return past.previous, past.before, past.keep

    def forward(self, rainy: Tensor, previous: Tensor, before: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W], 0..1, and the state aligned to it -> the clean frame, 0..1, and the new state."""
        darker, brighter = torch.minimum(previous, before), torch.maximum(previous, before)
        spikes, dips = F.relu(rainy - brighter), F.relu(darker - rainy)
        cells = F.avg_pool2d((spikes - dips).mean(1, keepdim=True), _CELL)
        evidence = F.avg_pool2d(cells, _CELLS, stride=1, padding=_CELLS // 2, count_include_pad=False)
        share = F.interpolate((evidence / _RAIN).clamp(0.0, 1.0), scale_factor=float(_CELL), mode="bilinear")
        clean = rainy - share * (rainy - torch.minimum(rainy, darker))
        return clean, rainy, previous, torch.ones_like(keep)
