"""What a browser sees of a stream while it runs: before and after, with a slider."""

from streamderain.preview.jpeg import JpegEncoder
from streamderain.preview.server import serve_preview

__all__ = ["JpegEncoder", "serve_preview"]
