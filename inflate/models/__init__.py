"""The layers and networks: they take plain arguments, and know no configuration and no files."""

from inflate.models.attention import AttnBlock as AttnBlock
from inflate.models.attention import MemoryEfficientAttnBlock as MemoryEfficientAttnBlock
from inflate.models.blocks import ResnetBlock as ResnetBlock
from inflate.models.image import Decoder as Decoder
from inflate.models.image import Encoder as Encoder
from inflate.models.temporal import AE3DConv as AE3DConv
from inflate.models.temporal import VideoResBlock as VideoResBlock
from inflate.models.time_attention import MemoryEfficientVideoBlock as MemoryEfficientVideoBlock
from inflate.models.time_attention import VideoBlock as VideoBlock
from inflate.models.video_decoder import VideoDecoder as VideoDecoder
