"""Video in and out, by PyAV. Knows no network."""

from streamderain.video.container import ContainerSink
from streamderain.video.sequence import SequenceSink
from streamderain.video.sink import NullSink, VideoSink, open_sink
from streamderain.video.source import open_source
from streamderain.video.stills import list_stills, read_still, write_still
from streamderain.video.video_source import VideoSource

__all__ = [
    "ContainerSink",
    "NullSink",
    "SequenceSink",
    "VideoSink",
    "VideoSource",
    "list_stills",
    "open_sink",
    "open_source",
    "read_still",
    "write_still",
]
