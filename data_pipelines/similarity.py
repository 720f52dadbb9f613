"""Which images look nearly the same."""

import collections

import numpy as np
from PIL import Image
from scipy import fft

_SIDE = 32  # pixels of a thumbnail
_BANDS = 6  # of a perceptual hash; two that differ in fewer bits share one of them
_NEAR = 0.995  # correlation of two thumbnails


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """An image [H, W], or the middle slice of a volume [X, Y, Z], made small.

    Returns:
        float32 [32, 32] of zero mean and unit norm; None of an image of one value.
    """
    flat = image if image.ndim == 2 else image[:, :, image.shape[2] // 2]
    small = np.asarray(
        Image.fromarray(flat).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32
    )
    small = small - small.mean()
    norm = np.linalg.norm(small)
    return small / norm if norm > 1e-6 else None


def near_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs that correlate, of those whose perceptual hashes agree in a band of bits.

    The hash says which of the low frequencies are above their median.

    Args:
        thumbnails: [N, 32, 32], see `thumbnail`.

    Returns:
        Indices (i, j), i < j, sorted.
    """
    low = fft.dctn(thumbnails, axes=(1, 2))[:, :8, :8].reshape(len(thumbnails), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    pairs: set[tuple[int, int]] = set()
    for band in np.array_split(np.arange(bits.shape[1]), _BANDS):
        alike: dict[bytes, list[int]] = collections.defaultdict(list)
        for index, key in enumerate(np.packbits(bits[:, band], axis=1)):
            alike[key.tobytes()].append(index)
        for members in alike.values():
            block = thumbnails[members].reshape(len(members), -1)
            rows, columns = np.nonzero(np.triu(block @ block.T > _NEAR, 1))
            pairs |= {(members[row], members[column]) for row, column in zip(rows, columns)}
    return sorted(pairs)
