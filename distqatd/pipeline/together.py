"""Running several calls at once, where the first failure ends all of them."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

from distqatd.base.errors import DistqatError


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines together; the first DistqatError cancels the others and is raised alone."""
    coroutines = list(work)
    if len(coroutines) == 1:
        await coroutines[0]
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)
    except* DistqatError as group:
        raise next(_leaves(group)) from None


async def attended(work: Coroutine[Any, Any, None], watch: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, unless `watch` fails before; then that is raised, alone."""
    try:
        async with asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(watch)
            await work
            guard.cancel()
    except* DistqatError as group:
        raise next(_leaves(group)) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
