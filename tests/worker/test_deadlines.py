"""Deadlines: many tasks share a timer, and each ends at its own time."""

import asyncio
import time

import pytest

from flask_webhook_endpoints.worker.deadlines import Deadlines

SHORT, LONG = 0.05, 30.0


def test_each_task_ends_when_its_own_time_is_over():
    async def take():
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await deadlines.within(SHORT, asyncio.sleep(LONG))
        return time.monotonic() - started

    async def main():
        nonlocal deadlines
        deadlines, tasks = Deadlines(), []
        for _ in range(3):
            tasks.append(asyncio.create_task(take()))
            await asyncio.sleep(SHORT / 2)
        return await asyncio.gather(*tasks)

    deadlines = None
    taken = asyncio.run(main())

    assert all(SHORT <= each < LONG / 10 for each in taken)


def test_a_task_that_has_ended_is_cancelled_no_more():
    async def main():
        deadlines = Deadlines()
        before = await deadlines.within(SHORT, asyncio.sleep(0, "answer"))
        await asyncio.sleep(2 * SHORT)
        return before, await deadlines.within(LONG, asyncio.sleep(0, "another"))

    assert asyncio.run(main()) == ("answer", "another")


@pytest.mark.parametrize("seconds", [pytest.param(SHORT, id="with its deadline"), pytest.param(LONG, id="before it")])
def test_a_task_that_another_one_cancels_is_cancelled(seconds):
    async def main():
        deadlines = Deadlines()
        task = asyncio.create_task(deadlines.within(seconds, asyncio.sleep(LONG)))
        await asyncio.sleep(0)
        # A short deadline is over in the same turn of the loop.
        time.sleep(2 * SHORT)
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main())


def test_an_error_that_a_deadline_turns_into_another_one_leaves_the_task_uncancelled():
    async def broken():
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            raise ConnectionError("broken") from None

    async def main():
        task = asyncio.current_task()
        with pytest.raises(ConnectionError, match="broken"):
            await Deadlines().within(SHORT, broken())
        return task.cancelling()

    assert asyncio.run(main()) == 0
