"""Deadlines of attempts: attempts with the same time limit share a timer. `asyncio.timeout` takes one for each."""

import asyncio
from collections.abc import Awaitable
from itertools import takewhile
from typing import Any, TypeVar, cast

T = TypeVar("T")

Task = asyncio.Task[Any]


class Deadlines:
    """The deadlines of the tasks of one loop; a task has one at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[float, dict[Task, float]] = {}
        """By their seconds: the tasks that share a timer and the times of their ends, in this order."""

    async def within(self, seconds: float, awaitable: Awaitable[T]) -> T:
        """Return what an awaitable returns. Raise `TimeoutError` after so many seconds, as `asyncio.timeout` does."""
        task = cast(Task, asyncio.current_task())
        if (due := self._due.get(seconds)) is None:
            due = self._due[seconds] = {}
            self._loop.call_later(seconds, self._end, seconds)
        cancelling = task.cancelling()
        due[task] = self._loop.time() + seconds
        try:
            return await awaitable
        except asyncio.CancelledError:
            # If somebody else cancels the task, too, it stays cancelled.
            if task not in due and task.cancelling() - 1 <= cancelling:
                raise TimeoutError from None
            raise
        finally:
            if due.pop(task, None) is None:
                task.uncancel()

    def _end(self, seconds: float) -> None:
        """Cancel the tasks whose time is over, and set the timer for the next one."""
        due, now = self._due[seconds], self._loop.time()
        for task, _ in list(takewhile(lambda each: each[1] <= now, due.items())):
            del due[task]
            task.cancel()
        if due:
            self._loop.call_at(next(iter(due.values())), self._end, seconds)
        else:
            del self._due[seconds]
