"""The layers and networks: plain arguments in, tensors out, no configuration and no files."""

from inflate.models.image import Decoder as Decoder
from inflate.models.image import Encoder as Encoder
from inflate.models.video_decoder import VideoDecoder as VideoDecoder
