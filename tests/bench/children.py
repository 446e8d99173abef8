"""Other processes of a bench, asked over their standard input: a JSON object a line each way."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).parent / "peer"


class Child:
    """A process that answers; ends when its standard input does."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._name = " ".join(command[-3:])
        self.pid = self._process.pid
        self.ready = self._read()

    def ask(self, do: str, **fields: Any) -> Any:
        """Have the child do something and return what it says."""
        self.begin(do, **fields)
        return self.answer()

    def begin(self, do: str, **fields: Any) -> None:
        """Have the child do something; `answer` must be read before the next request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for what the child says to what was begun."""
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries of others print, too
                return json.loads(line)
        raise RuntimeError(f"{self._name} ended with exit code {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ours(end: str, *arguments: str, inside: str | None = None) -> Child:
    """Start `tests.bench.ends.<end>` with our own Python, also in a network namespace."""
    prefix = ["ip", "netns", "exec", inside] if inside is not None else []
    return Child([*prefix, sys.executable, "-m", f"tests.bench.ends.{end}", *arguments])


def peers(script: str, python: str, *arguments: str) -> Child:
    """Start `tests/bench/peer/<script>.py` with the Python that has hivemind."""
    return Child([python, str(PEER / f"{script}.py"), *arguments])


def say(**fields: Any) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer the parent until it closes our standard input."""
    for line in sys.stdin:
        request = json.loads(line)
        say(**handlers[request.pop("do")](**request))


async def serve_on_loop(handlers: dict[str, Callable[..., Awaitable[dict[str, Any]]]]) -> None:
    """Answer the parent as `serve` does, while the loop goes on with other work."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        say(**await handlers[request.pop("do")](**request))
