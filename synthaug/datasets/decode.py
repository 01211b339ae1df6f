"""Work over many films in threads: decoding releases Python's lock, so threads are enough."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Progress = Callable[[int, int], None]
"""Called with (films done, films in all); the caller owns bars and logging."""


def in_threads(work: Callable[[int], None], count: int, progress: Progress | None = None) -> None:
    """`work(0) ... work(count - 1)` in as many threads as there are processors.

    Raises:
        Exception: the first (by number) that `work` raised; what had not begun by then is not done.
    """
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        try:
            for done, future in enumerate(futures, 1):
                future.result()
                if progress is not None:
                    progress(done, count)
        finally:
            pool.shutdown(cancel_futures=True)
