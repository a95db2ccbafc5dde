"""The layers and networks: they take plain arguments, and know no configuration and no files."""

from inflate.models.attention import AttnBlock, MemoryEfficientAttnBlock
from inflate.models.blocks import ResnetBlock
from inflate.models.image import Decoder, Encoder
from inflate.models.temporal import AE3DConv, VideoResBlock
from inflate.models.time_attention import MemoryEfficientVideoBlock, VideoBlock
from inflate.models.video_decoder import VideoDecoder

__all__ = [
    "AE3DConv",
    "AttnBlock",
    "Decoder",
    "Encoder",
    "MemoryEfficientAttnBlock",
    "MemoryEfficientVideoBlock",
    "ResnetBlock",
    "VideoBlock",
    "VideoDecoder",
    "VideoResBlock",
]
