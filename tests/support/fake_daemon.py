"""Stands in for `distqatd` under `distqatctl local`: same arguments, same API, no training.

`$FAKE_DAEMON` holds what one of them does wrong, `BEHAVIOUR:NAME` by comma:
`die` exits with 69, `stubborn` ignores SIGTERM, `orphan` leaves a process behind, `litter` leaves
a socket file, `endless` (client) never finishes, `differ` (client) reports different replicas.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

OUTER_STEPS = 4
OUTER_STEP_S = 0.15


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag in ("--show-config", "--json"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--role", "--join", "--host", "--network-secret-file"):
        parser.add_argument(flag)
    for flag in ("--config", "--set"):
        parser.add_argument(flag, action="append", default=[])
    for flag in ("--port", "--api-port", "--parent-fd"):
        parser.add_argument(flag, type=int)
    for flag in ("--state-dir", "--log-file"):
        parser.add_argument(flag, type=Path)
    return parser.parse_args()


def _show_config() -> None:
    stages = [{"model_name": "resnet18.front"}, {"model_name": "resnet18.back"}]
    values = {
        "experiment_prefix": "fake",
        "model_pipeline": {"pipeline": stages},
        "diloco": {"outer_steps": OUTER_STEPS, "inner_steps": 10},
    }
    print(json.dumps({"schema": "distqat.config/v1", "values": values}))


def _behaviours(name: str) -> set[str]:
    pairs = [text.split(":") for text in os.environ.get("FAKE_DAEMON", "").split(",") if text]
    return {behaviour for behaviour, who in pairs if who == name}


class _Progress:
    """The client's story: outer steps by the clock."""

    def __init__(self, wrong: set[str]) -> None:
        from tests.support.fake_provider import FakeProvider

        self.provider = FakeProvider()
        self._wrong = wrong
        self._began = time.monotonic()
        self._first_step_unix_s = time.time()

    async def run(self) -> None:
        while True:
            self._update(int((time.monotonic() - self._began) / OUTER_STEP_S))
            await asyncio.sleep(0.02)

    def _update(self, step: int) -> None:
        from distqatd.api import schema
        from tests.support import fake_provider as fake

        step = min(step, OUTER_STEPS - 1 if "endless" in self._wrong else OUTER_STEPS)
        is_over = step == OUTER_STEPS
        state = "finished" if is_over else "training"
        digest = {True: "other", False: "d1"}["differ" in self._wrong]
        self.provider.status_reply = fake.status(
            training=schema.Training(
                state=state,
                outer_step=step,
                outer_steps=OUTER_STEPS,
                inner_step=step * 10,
                loss=2.0 / (step + 1),
                samples_per_s=400.0,
                num_pipelines=2,
            ),
            stages=tuple(
                fake.stage(name, fake.expert(name, 0, step), fake.expert(name, 1, step, digest))
                for name in ("front", "back")
            ),
        )
        self.provider.run_reply = fake.run_info(
            state=state,
            outer_step=step,
            outer_steps=OUTER_STEPS,
            inner_steps=step * 20,
            first_step_unix_s=self._first_step_unix_s if step else None,
            finished=is_over,
            eval=schema.Eval(loss=0.2, accuracy=0.96) if is_over else None,
            batches=schema.Batches(committed=step * 20),
        )


async def _serve_api(state_dir: Path, wrong: set[str]) -> None:
    from distqatd.api.server import ApiServer

    progress = _Progress(wrong)
    server = ApiServer(progress.provider, state_dir / "api.sock", -1)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.run())
            tasks.create_task(progress.run())
    finally:
        server.close()


async def _run(arguments: argparse.Namespace, wrong: set[str]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    os.set_blocking(arguments.parent_fd, False)
    loop.add_reader(arguments.parent_fd, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if "stubborn" in wrong else stop.set)
    async with asyncio.TaskGroup() as tasks:
        if arguments.role == "client":
            serving = tasks.create_task(_serve_api(arguments.state_dir, wrong))
            await stop.wait()
            serving.cancel()
        else:
            await stop.wait()


def _misbehave(arguments: argparse.Namespace, wrong: set[str]) -> None:
    if "die" in wrong:
        print("error: none of the 1 peers answered\x1b[2J", file=sys.stderr)
        sys.exit(69)
    if "orphan" in wrong:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    if "litter" in wrong:
        import socket

        left = socket.socket(socket.AF_UNIX)
        left.bind(str(arguments.state_dir / "left.sock"))
        left.close()


def main() -> None:
    arguments = _parse()
    if arguments.show_config:
        return _show_config()
    arguments.state_dir.mkdir(parents=True, exist_ok=True)
    arguments.log_file.open("a").write(f"started {arguments.role}\n")
    if arguments.role == "monitor":
        join_file = arguments.log_file.parent / "initial_peers.txt"
        join_file.write_text("/ip4/127.0.0.1/tcp/1/p2p/x\n")
    elif not Path(arguments.join.removeprefix("@")).exists():
        sys.exit(78)
    wrong = _behaviours(arguments.state_dir.name)
    _misbehave(arguments, wrong)
    return asyncio.run(_run(arguments, wrong))


if __name__ == "__main__":
    main()
