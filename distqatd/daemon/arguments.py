"""The command line of `distqatd`, and Options from it."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import platformdirs

from distqatd import __version__
from distqatd.config.flags import add_config_flags
from distqatd.config.load import Loaded, load
from distqatd.daemon.options import ROLES, Options

_DESCRIPTION = """\
One daemon of a DistQat swarm. It takes any of the roles monitor, client, expert and trainer.

  distqatd --role monitor --role client       make a swarm and print how to join it
  distqatd --role expert --join HOST:PORT     give this machine to a swarm

Values come from, each over the one before: defaults, presets, --config files, DISTQAT_*
variables (DISTQAT_DILOCO__INNER_STEPS=200), --set and flags.
"""

_EXIT_CODES = """\
exit codes: 0 stopped as asked, 1 a bug, 2 wrong command line, 69 no peer answered or the port
is taken, 78 the configuration cannot be used, 130 Ctrl-C before it was up.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that names the flag that was probably meant."""

    def unknown(self, arguments: Sequence[str]) -> NoReturn:
        """Exit with code 2; say which flag comes closest."""
        flag = arguments[0].partition("=")[0]
        near = difflib.get_close_matches(flag, list(self._option_string_actions), 1)
        hint = f"; did you mean {near[0]}?" if near else "; see distqatd --help"
        self.error(f"unknown argument {flag}{hint}")


def _build() -> _Parser:
    parser = _Parser(
        prog="distqatd",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="distqatd [--role ROLE]... [--join PEER]... [--config PRESET_OR_FILE]... [flags]",
    )
    _add_daemon_flags(parser)
    _add_one_shot_flags(parser)
    add_config_flags(parser)
    return parser


def _add_daemon_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        metavar="ROLE[,ROLE]",
        help=f"{', '.join(ROLES)}; repeatable. Without it: expert if --join is given, "
        "else monitor and client",
    )
    parser.add_argument(
        "--config",
        "--config-path",
        action="append",
        default=[],
        metavar="PRESET_OR_FILE",
        help="a preset that comes with DistQat, or a YAML file; repeatable",
    )
    parser.add_argument(
        "--state-dir", type=Path, help="keys, swarm secret and API socket (default: per user)"
    )
    parser.add_argument("--log-file", type=Path, help="log to this file, not to standard error")
    parser.add_argument(
        "--parent-fd", type=int, metavar="N", help="stop when this file descriptor reaches its end"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="debug log; errors with traceback"
    )
    parser.add_argument("--version", action="version", version=f"distqatd {__version__}")


def _add_one_shot_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("print something and exit")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--check", action="store_true", help="check config, model, device and port")
    one.add_argument("--show-config", action="store_true", help="print the merged configuration")
    one.add_argument("--schema", action="store_true", help="print the JSON Schema of config files")
    one.add_argument(
        "--list-checkpoints", type=Path, metavar="DIR", help="verify and print what DIR holds"
    )
    one.add_argument(
        "--export-checkpoint",
        type=Path,
        nargs=2,
        metavar=("DIR", "TARGET"),
        help="write DIR's newest checkpoint as one safetensors file",
    )
    one.add_argument(
        "--sample-checkpoint",
        type=Path,
        nargs=2,
        metavar=("DIR", "TARGET"),
        help="draw images from DIR's newest checkpoint and write them as a PNG file",
    )
    group.add_argument(
        "--outer-step", type=int, metavar="N", help="of a checkpoint: not the newest one"
    )
    group.add_argument(
        "--num-images", type=int, default=64, metavar="N", help="with --sample-checkpoint"
    )
    group.add_argument(
        "--draw", type=int, default=0, metavar="SEED", help="with --sample-checkpoint"
    )
    group.add_argument(
        "--int", action="store_true", help="with --export-checkpoint: weights as packed integers"
    )
    group.add_argument(
        "--backend",
        choices=("distqat", "torchao"),
        default="distqat",
        help="with --int: for distqatd.compute.integers (default), or for torchao",
    )
    group.add_argument("--origin", action="store_true", help="with --show-config: where from")
    group.add_argument("--json", action="store_true", help="print JSON")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with code 2 and a suggestion if it is not understood.

    Raises:
        ConfigError: a `--set` or a flag's value is not even YAML.
    """
    parser = _build()
    namespace, rest = parser.parse_known_args(argv)
    if rest:
        parser.unknown(rest)
    namespace.role = _roles(parser, namespace.role)
    return namespace


def _roles(parser: argparse.ArgumentParser, given: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ROLES:
            near = difflib.get_close_matches(name, ROLES, 1)
            hint = f"did you mean {near[0]}?" if near else f"roles are {', '.join(ROLES)}"
            parser.error(f"--role {name}: no such role; {hint}")
    return tuple(role for role in ROLES if role in names)


def load_config(namespace: argparse.Namespace, env: Mapping[str, str]) -> Loaded:
    """Merge all sources of configuration that the command line and environment name.

    Raises:
        ConfigError: a source or a value is wrong.
    """
    return load(namespace.config, env=env, overrides=namespace.overrides)


def make_options(namespace: argparse.Namespace, loaded: Loaded, env: Mapping[str, str]) -> Options:
    """Return what the daemon is started with; the default role follows from `--join`."""
    joins = bool(loaded.config.network.join)
    return Options(
        roles=namespace.role or (("expert",) if joins else ("monitor", "client")),
        config=loaded.config,
        origins=loaded.origins,
        state_dir=_state_dir(namespace.state_dir, env),
        log_file=namespace.log_file,
        parent_fd=namespace.parent_fd,
        verbose=namespace.verbose,
    )


def _state_dir(given: Path | None, env: Mapping[str, str]) -> Path:
    """Take `--state-dir`, `$DISTQAT_STATE_DIR`, systemd's StateDirectory or the user's folder."""
    if given is not None:
        return given.expanduser()
    for name in ("DISTQAT_STATE_DIR", "STATE_DIRECTORY"):
        if env.get(name):
            return Path(env[name].partition(":")[0])
    return platformdirs.user_state_path("distqat")
