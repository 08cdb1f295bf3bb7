"""Work shared out among processes of one thread each; light to import, so that they start side by side."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from mlcore.errors import ModelError

Shared = TypeVar("Shared")
Item = TypeVar("Item")

_work: tuple[Callable[[Any, Any], None], Any]


def each(
    function: Callable[[Shared, Item], None], shared: Shared, items: Sequence[Item], jobs: int
) -> Generator[Item, None, None]:
    """Call function(shared, item) for every item in `jobs` processes; yields each item when it is done. Close it
    when you stop asking (contextlib.closing).

    function: of a module's top level. However this ends, by an error or Ctrl-C too, its processes end with it, and
    they end when this process is killed. Raises what a call raises, or ModelError when a process is killed.
    """
    with _processes(min(jobs, len(items)), pickle.dumps((function, shared))) as pool:
        with _deaf():
            futures: dict[Future[None], Item] = {pool.submit(_call, item): item for item in items}
        for future in as_completed(futures):
            try:
                future.result()
            except BrokenProcessPool:
                raise ModelError(
                    "A training process was killed, most likely for lack of memory: run the command again with fewer "
                    "--jobs; it goes on where it stopped. In a script of your own, call it under "
                    'if __name__ == "__main__": its processes read the script anew.'
                ) from None
            yield futures[future]


@contextmanager
def _processes(count: int, work: bytes) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(work,))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started in this block never hear Ctrl-C; this one hears it when the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(work: bytes) -> None:
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _work = pickle.loads(work)  # of this program's own making
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(item: Any) -> None:
    function, shared = _work
    function(shared, item)
