"""Entry point of `distqatd`: arguments in, exit code out; the only place that starts a loop.

Errors raised on purpose become a message and their exit code; a traceback is shown with -v.
Torch is not imported here: `--help` and `--show-config` answer at once.
"""

import argparse
import asyncio
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from distqatd.base.errors import DistqatError
from distqatd.config.show import as_json, as_yaml, json_schema, to_text
from distqatd.daemon.arguments import load_config, make_options, parse
from distqatd.daemon.options import Options

INTERRUPTED = 130
BUG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run `distqatd` with these arguments (default: the process's); return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in arguments or "--verbose" in arguments
    as_object = "--json" in arguments
    try:
        return _dispatch(parse(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the last place that can turn it into a message
        return _report(error, verbose=verbose, as_object=as_object)


def _dispatch(namespace: argparse.Namespace) -> int:
    if namespace.schema:
        _print(to_text(json_schema()))
        return 0
    if namespace.list_checkpoints is not None or namespace.export_checkpoint is not None:
        return _checkpoints(namespace)
    if namespace.sample_checkpoint is not None:
        return _sample(namespace)
    loaded = load_config(namespace, os.environ)
    if namespace.show_config:
        text = as_yaml(loaded, origins=namespace.origin)
        _print(to_text(as_json(loaded)) if namespace.json else text.rstrip())
        return 0
    options = make_options(namespace, loaded, os.environ)
    return _check(options, as_object=namespace.json) if namespace.check else _run(options)


def _check(options: Options, *, as_object: bool) -> int:
    # Imported here: it imports torch, which takes seconds and which --help does without.
    from distqatd.daemon.check import check

    lines = check(options)
    if as_object:
        _print(json.dumps({"schema": "distqat.check/v1", "ok": True, "checks": list(lines)}))
    else:
        _print("\n".join(f"ok: {line}" for line in lines))
    return 0


def _checkpoints(namespace: argparse.Namespace) -> int:
    # Imported here: it imports torch.
    from distqatd.daemon import checkpoint_files as files

    if namespace.list_checkpoints is not None:
        listed = files.list_checkpoints(namespace.list_checkpoints)
        lines = [f"{c.state} {c.folder} {c.reason}".rstrip() for c in listed.checkpoints]
        _print(listed.to_json(indent=2) if namespace.json else "\n".join(lines))
        return 0
    source, target = namespace.export_checkpoint
    form: files.Form = "plain"
    if namespace.int:
        form = "torchao" if namespace.backend == "torchao" else "packed"
    exported = files.export(source, target, namespace.outer_step, form=form)
    text = f"{exported.file}: outer step {exported.outer_step} of {exported.run}"
    _print(exported.to_json(indent=2) if namespace.json else text)
    return 0


def _sample(namespace: argparse.Namespace) -> int:
    # Imported here: it imports torch.
    from distqatd.daemon.checkpoint_samples import sample

    source, target = namespace.sample_checkpoint
    step = namespace.outer_step
    sampled = sample(source, target, step, namespace.num_images, namespace.draw)
    text = f"{sampled.file}: {sampled.num_images} images, outer step {sampled.outer_step}"
    _print(sampled.to_json(indent=2) if namespace.json else text)
    return 0


def _run(options: Options) -> int:
    # Imported here: roles bring torch and sockets, which the other commands do without.
    from distqatd.daemon import app

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(app.run(options))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's loop where uvloop exists, else asyncio's."""
    try:
        import uvloop  # noqa: TID251  the one place that chooses the event loop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _report(error: BaseException, *, verbose: bool, as_object: bool) -> int:
    """Show an error as its kind deserves, and return the exit code it stands for."""
    known = _raised_on_purpose(error)
    if verbose:
        traceback.print_exception(error)
    if known is None:
        hint = "" if verbose else "; this is a bug, -v shows the traceback"
        _print_error(f"{type(error).__name__}: {error}{hint}")
        return BUG
    if as_object:
        failure = {"code": known.wire_code, "message": str(known)}
        _print(json.dumps({"schema": "distqat.error/v1", "ok": False, "error": failure}))
    _print_error(str(known))
    return known.exit_code


def _raised_on_purpose(error: BaseException) -> DistqatError | None:
    """Return our error, also out of the groups that task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, DistqatError) else None


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _print_error(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
