"""Where a trainer's batches come from: its own data set, or the data server of its machine."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from distqatd.compute.executor import Executor
from distqatd.data.batches import Batch, Dataset
from distqatd.data.trial import Trial


class Batches(Protocol):
    """Batches by number; the same ones wherever they come from."""

    async def batch(self, number: int, end: int) -> Batch:
        """Return training batch `number`; those below `end` will be asked for next."""
        ...

    async def validation(self) -> list[Batch]:
        """Return every validation sample once."""
        ...

    async def trial(self) -> Trial | None:
        """Return a fresh trial of the model in its environment, where the data set has one."""
        ...


class OwnBatches:
    """Batches that this daemon makes itself, on the thread of its device."""

    def __init__(self, dataset: Dataset, executor: Executor) -> None:
        self._dataset = dataset
        self._executor = executor

    async def batch(self, number: int, end: int) -> Batch:
        """Return training batch `number`."""
        return await self._executor.run(partial(self._dataset.batch, number))

    async def validation(self) -> list[Batch]:
        """Return every validation sample once."""
        return await self._executor.run(lambda: [*self._dataset.validation_batches()])

    async def trial(self) -> Trial | None:
        """Return a fresh trial of the model in its environment, where the data set has one."""
        return self._dataset.trial()


class LaterBatches:
    """The same, of a data set that is opened when something is asked for.

    Attributes:
        is_open: whether it was.
    """

    def __init__(self, open_data: Callable[[], Dataset], executor: Executor) -> None:
        self._open_data = open_data
        self._executor = executor
        self._own: OwnBatches | None = None

    @property
    def is_open(self) -> bool:
        """Return whether the data set was opened."""
        return self._own is not None

    async def batch(self, number: int, end: int) -> Batch:
        """Return training batch `number`."""
        return await (await self._opened()).batch(number, end)

    async def validation(self) -> list[Batch]:
        """Return every validation sample once."""
        return await (await self._opened()).validation()

    async def trial(self) -> Trial | None:
        """Return a fresh trial of the model in its environment, where the data set has one."""
        return await (await self._opened()).trial()

    async def _opened(self) -> OwnBatches:
        if self._own is None:
            dataset = await self._executor.run(self._open_data)
            self._own = OwnBatches(dataset, self._executor)
        return self._own
