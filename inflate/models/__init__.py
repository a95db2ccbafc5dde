"""The layers and networks: plain arguments in, tensors out, no configuration and no files."""

from inflate.models.image import Decoder, Encoder
from inflate.models.video_decoder import VideoDecoder

__all__ = ["Decoder", "Encoder", "VideoDecoder"]
