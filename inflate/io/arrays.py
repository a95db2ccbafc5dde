"""Arrays in the types of checkpoints, and the few operations on them that numpy lacks."""

from __future__ import annotations

from importlib import import_module
from mmap import ACCESS_COPY, mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    np = numpy
    Array = NDArray[Any]
    Bytes = NDArray[np.uint8]
else:
    # Import numpy lazily: a plan needs no numbers, and the import takes a quarter of a dry run.
    class _Numpy:
        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("numpy"), name)

    np, Array, Bytes = _Numpy(), Any, Any

ALIGNMENT = 64
"""Size in bytes of a cache line and of the widest vector registers. Data aligned to it is read
fastest, and always by the same code path."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The type of a name such as ``float32`` or ``bfloat16``."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def aligned_zeros(nbytes: int) -> Bytes:
    """A new buffer of zeros that begins at a multiple of :data:`ALIGNMENT`.

    It is mapped page by page as it is written. numpy would ask for huge pages, which the system
    may first have to make by moving others: that takes longer than reading the file.
    """
    try:
        pages = mmap(-1, max(nbytes, 1), access=ACCESS_COPY)
    except OSError as error:
        raise MemoryError(f"{nbytes:,} bytes cannot be allocated: {error.strerror}") from error
    return np.frombuffer(pages, np.uint8)[:nbytes]


def bytes_of(array: Array) -> memoryview:
    """The bytes of a flat contiguous array."""
    return array.view(np.uint8).data


def aligned(array: Array) -> Array:
    """An aligned, contiguous copy."""
    copy = aligned_zeros(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def cast(array: Array, dtype: str) -> Array:
    """The array cast to another floating-point type, rounded as torch rounds."""
    wanted = numpy_dtype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype.itemsize == 8 and wanted.itemsize < 4:
            array = array.astype(np.float32)  # torch rounds twice.
        return array.astype(wanted, copy=False)


def is_finite(array: Array) -> bool:
    """Whether a contiguous array has only finite values; allocates no temporary array.

    Viewed as integers, infinity and NaN are the largest values of either sign.
    """
    if not array.size or array.dtype.kind not in "fV":
        return True
    width = array.itemsize
    infinity = int(np.array(np.inf, array.dtype).view(f"u{width}"))
    sign = 1 << (8 * width - 1)
    return bool(
        array.view(f"i{width}").max() < infinity and array.view(f"u{width}").max() < sign + infinity
    )
