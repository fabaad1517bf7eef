"""Makes what comes next in threads, while something else is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar


T = TypeVar("T")


class Prefetcher(Generic[T]):
    """`prefetcher(n)` is `make(n)`, and threads make n + 1, …, n + `ahead` meanwhile, which are probably asked for next.

    Args:
        make: a function of a whole number alone, which several threads may call at a time.
        ahead: how many are made before they are asked for, and the number of threads.
    """

    def __init__(self, make: Callable[[int], T], ahead: int):
        self.make, self.ahead = make, ahead
        self._threads = ThreadPoolExecutor(ahead)
        self._made: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        wanted = range(number, number + self.ahead + 1)
        # What was made for others is let go: after a resume the numbers begin elsewhere.
        self._made = {n: self._made.get(n) or self._threads.submit(self.make, n) for n in wanted}
        return self._made.pop(number).result()
