"""Work done ahead by threads, its results in order, a bounded number of them at a time.

Decoding, resizing and arithmetic on arrays let go of Python's lock: threads are enough, and cost next to no memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Iterator[R]:
    """`function` of each item, in the items' order; at most `ahead` results wait or are worked on.

    With no workers everything happens in the calling thread, when it is asked for. An exception of `function` is raised
    where its result would have come. Threads end with the iterator.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="homespun-data")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= max(1, ahead):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
