"""Files are decoded in threads: Pillow, zlib and HDF5 let others run meanwhile."""

import collections
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

THREADS = min(8, os.cpu_count() or 1)  # each may hold a film of 20 megapixels
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out]:
    """Maps in threads; keeps the order and stays at most a few items ahead of the reader."""
    waiting: collections.deque[Future[_Out]] = collections.deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def show_progress(items: Iterable[_In], description: str, total: int) -> tqdm:
    """Counts examples, on a terminal only."""
    return tqdm(items, desc=description, total=total, unit=" examples", disable=None)
