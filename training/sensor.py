"""What a camera does to a picture after the rain: noise, compression; and sRGB's transfer function."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from torch import Tensor

from training.style import RainStyle

_SHOT = 2e-4  # variance per unit of linear signal at gain 1: a full well of 5000 electrons
_READ = 1.5e-3  # standard deviation at gain 1


def to_linear(srgb: Tensor) -> Tensor:
    """IEC 61966-2-1 sRGB to linear light, both 0..1."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light to IEC 61966-2-1 sRGB 0..1; clamps."""
    linear = linear.clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    ).clamp(max=1)


def degrade(rainy: Tensor, style: RainStyle, generator: torch.Generator) -> Tensor:
    """Camera noise, then an H.264 round trip, as the style says.

    Args:
        rainy: [T, 3, H, W] sRGB, float 0..1.
        style: ``gain`` and ``crf`` are used.
        generator: the only source of chance; one draw is taken from it.

    Returns:
        The same shape, dtype, device and range; ``rainy`` itself when the style asks for neither.
    """
    seed = int(torch.randint(0, 2**48, (1,), generator=generator, device=generator.device))
    if style.gain > 0:
        rainy = _add_noise(rainy, style.gain, seed)
    return rainy if style.crf is None else compress(rainy, crf=style.crf)


def _add_noise(srgb: Tensor, gain: float, seed: int) -> Tensor:
    """Poisson-Gaussian noise in linear light; shot noise is normal at the counts of a camera."""
    noise = torch.Generator(srgb.device).manual_seed(seed)
    light = to_linear(srgb)
    sigma = torch.sqrt(light * (_SHOT * gain) + (_READ * gain) ** 2)
    return to_srgb(light + sigma * torch.randn(light.shape, generator=noise, device=light.device, dtype=light.dtype))


def compress(clip: Tensor, *, crf: int) -> Tensor:
    """Encode a clip as H.264 4:2:0 in memory and decode it again.

    Args:
        clip: [T, 3, H, W] sRGB, float 0..1.
        crf: 0..51, libx264's.

    Raises:
        ValueError: if ``crf`` is out of range.
    """
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be 0..51, got {crf}")
    count, _, height, width = clip.shape
    # 4:2:0 wants even sizes, and libx264 at least 16 px.
    bottom, right = max(16, height + height % 2) - height, max(16, width + width % 2) - width
    padded = F.pad(clip, (0, right, 0, bottom), mode="replicate")
    pictures = (padded * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = padded.shape[3], padded.shape[2], "yuv420p"
    encoder.framerate, encoder.thread_count = Fraction(25), 1
    # libx264's macroblock tree with B-frames depends on what the memory held before (seen with av 18.1: ten encodes of
    # one clip, ten results), and a seed must give one clip.
    encoder.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1

    def decoded() -> Iterator[Tensor]:
        for number in range(count + 1):
            frame = None
            if number < count:
                frame = VideoFrame.from_ndarray(pictures[number].numpy(), format="rgb24")
                frame.pts = number
            for packet in encoder.encode(frame):
                for picture in decoder.decode(packet):
                    yield torch.from_numpy(picture.to_ndarray(format="rgb24"))
        for picture in decoder.decode(None):
            yield torch.from_numpy(picture.to_ndarray(format="rgb24"))

    out = torch.stack(list(decoded()))[:, :height, :width].permute(0, 3, 1, 2)
    return out.to(device=clip.device, dtype=clip.dtype) / 255
