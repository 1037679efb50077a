"""What one rank does for all, and what all must know of it. Alone, everything is as if there were no ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from r1zero.errors import SyncError, UserError

T = TypeVar("T")

KINDS = {"UserError": UserError, "SyncError": SyncError}


def several() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if several() else 0


def size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if several() else 1


def meet() -> None:
    """Wait until every rank is here."""
    if several():
        dist.barrier()


def everywhere(holds: bool) -> bool:
    """Whether something holds on every rank; a collective."""
    return all(of_all(holds))


def of_all(value: T) -> list[T]:
    """Every rank's value, in order of ranks; a collective. Plain data: it travels through the trainer's own group."""
    values: list[Any] = [value] * size()
    if several():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def agreed(work: Callable[[], T]) -> Iterator[T]:
    """Do ``work`` on rank 0 and give its result to all; an error there is raised on all.

    The result must be plain data: it travels through the trainer's own process group.
    """
    if not several():
        yield work()
        return
    message: list[object] = [None]
    failure: BaseException | None = None
    if rank() == 0:
        try:
            message = [("done", work())]
        except BaseException as error:
            failure, message = error, [("failed", type(error).__name__, str(error))]
    dist.broadcast_object_list(message, src=0)
    if failure is not None:
        raise failure
    answer = message[0]
    assert isinstance(answer, tuple)
    if answer[0] == "failed":
        raise KINDS.get(answer[1], RuntimeError)(answer[2])
    yield answer[1]
