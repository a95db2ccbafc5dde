"""Frames of a clip that wait on disk for a pass that needs all of them."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from inflate.models.decoder import best_layout


@dataclass(frozen=True)
class Clip:
    """How a batch of videos is cut: ``videos`` of ``frames`` frames, ``chunk`` at a time."""

    videos: int
    frames: int
    chunk: int
    directory: Path | None

    def spans(self) -> Iterator[tuple[int, int]]:
        """The first frame of each chunk, and the one after its last."""
        for first in range(0, self.frames, self.chunk):
            yield first, min(first + self.chunk, self.frames)

    def file(self) -> FrameFile:
        """A new file for frames of this clip."""
        return FrameFile(self)


def by_video(x: Tensor, clip: Clip) -> Tensor:
    """``(B t) ... -> B t ...``."""
    return x.reshape(clip.videos, -1, *x.shape[1:])


class FrameFile:
    """Frames in a temporary file without a name, that goes when it is closed or forgotten.

    They lie there as ``T B H W C``: the frames of a chunk are one piece, and so are neighbouring
    pixels of one frame. Nothing is mapped into memory, where it would count as used.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._file = tempfile.TemporaryFile(dir=clip.directory)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> FrameFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, x: Tensor) -> None:
        """Add a chunk ``(B t) C H W`` at the end."""
        self._kind = x.new_empty(0)
        _, self.channels, self.height, self.width = x.shape
        videos = by_video(x, self.clip)
        self._end += self._put(self._end, videos.transpose(0, 1).movedim(2, -1))

    def read(self, first: int, last: int) -> Tensor:
        """The frames from ``first`` to before ``last``, ``(B t) C H W``."""
        shape = (last - first, self.clip.videos, self.height, self.width, self.channels)
        by_frame = self._get(self._offset(first, 0, 0), shape)
        x = by_frame.transpose(0, 1).flatten(0, 1).movedim(-1, 1).to(self._kind.device)
        return best_layout(x) if x.device.type == "cpu" else x.contiguous()

    def read_pixels(self, first: int, last: int) -> Tensor:
        """All frames of some pixels, ``(B T) S C``."""
        clip = self.clip
        shape = (clip.videos, clip.frames, last - first, self.channels)
        x = self._kind.new_empty(shape, device="cpu")
        for video in range(clip.videos):
            for frame in range(clip.frames):
                x[video, frame] = self._get(self._offset(frame, video, first), x.shape[2:])
        return x.flatten(0, 1).to(self._kind.device)

    def write_pixels(self, first: int, x: Tensor) -> None:
        """Put ``(B T) S C`` in the place of what :meth:`read_pixels` gave."""
        videos = by_video(x, self.clip)
        for video in range(self.clip.videos):
            for frame in range(self.clip.frames):
                self._put(self._offset(frame, video, first), videos[video, frame])

    def _offset(self, frame: int, video: int, pixel: int) -> int:
        image = frame * self.clip.videos + video
        numbers = (image * self.height * self.width + pixel) * self.channels
        return numbers * self._kind.element_size()

    def _put(self, offset: int, x: Tensor) -> int:
        buffer = bytearray(x.numel() * x.element_size())
        torch.frombuffer(buffer, dtype=x.dtype).view(x.shape).copy_(x)
        self._file.seek(offset)
        return self._file.write(buffer)

    def _get(self, offset: int, shape: Iterable[int]) -> Tensor:
        # Memory of torch is aligned as its kernels expect, which that of a bytearray is not.
        x = torch.empty(tuple(shape), dtype=self._kind.dtype)
        buffer = (ctypes.c_char * x.nbytes).from_address(x.data_ptr())
        self._file.seek(offset)
        assert self._file.readinto(buffer) == x.nbytes
        return x
