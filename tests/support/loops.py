"""Run a test on the event loop of asyncio and on uvloop."""

import asyncio
import functools
import inspect

import pytest
import uvloop


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
