"""Run a test on both real event loops, or on virtual time."""

import asyncio
import functools
import inspect

import pytest
import uvloop

from tests.sim.loop import VirtualLoop


def on_both_loops(test):
    """Turn an async test into a plain one that is run on each kind of loop."""

    @functools.wraps(test)
    def run(new_loop, **arguments):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(test(**arguments))

    del run.__wrapped__  # pytest must see the argument that was added
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    parameters = [*inspect.signature(test).parameters.values(), new_loop]
    run.__signature__ = inspect.Signature(parameters)
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])(run)


def on_virtual_time(test):
    """Turn an async test into a plain one that never really waits."""

    @functools.wraps(test)
    def run(**arguments):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(**arguments))

    run.__signature__ = inspect.signature(test)
    del run.__wrapped__
    return run
