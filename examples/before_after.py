"""Before and after in one video, and how much changed: python examples/before_after.py rainy.mp4 both.mp4 [MODEL]"""

import sys

import torch

import streamderain
from streamderain.pipeline import comparison


def main(rainy: str, both: str, model: str = "fast") -> None:
    source = streamderain.open_source(rainy)
    view, info = comparison("side", source.info)  # twice as wide, and the sink must know
    sink = streamderain.open_sink(both, info, side=source.side)
    change = 0.0

    def measured(before: streamderain.Frame, after: streamderain.Frame) -> streamderain.Frame:
        """A view is any function of the rainy and the clean frame; this one also looks at them."""
        nonlocal change
        top = torch.iinfo(after.pixels.dtype).max  # 255, or 65535 where the source is deeper than 8 bits
        change += (after.pixels.float() - before.pixels.float()).abs().mean().item() / top
        return view(before, after)

    stats = streamderain.run(source, sink, streamderain.Derainer(model), view=measured)
    print(f"{stats.frames} frames, a mean change of {255 * change / stats.frames:.2f} of 255")


if __name__ == "__main__":
    main(*sys.argv[1:])
