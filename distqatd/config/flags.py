"""Every configuration field as a command line flag, generated from the models."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from distqatd.config.layers import Override, set_override
from distqatd.config.text import parse_for
from distqatd.config.tree import Leaf, expected, leaves

ALIASES: Mapping[str, tuple[str, ...]] = {
    "network.port": ("--port",),
    "network.api_port": ("--api-port",),
    "network.host": ("--host",),
    "network.join": ("--join", "--initial-peers"),
    "network.public_ip": ("--public-ip",),
    "network.client_mode": ("--client-mode",),
    "network.announce": ("--announce",),
    "compute.stage": ("--stage",),
    "compute.num_experts": ("--num-experts", "--num-servers"),
    "param_mirror.resume": ("--resume",),
    "quant.enable": ("--disable-quant",),
}
"""Short flags besides the generated ones; some are the original documents' names."""

_NEGATIVE = ("--no-", "--disable-")
"""Flags of a switch that begin like this turn it off."""


class _Give(argparse.Action):
    """Append an Override; flags of a list add to what earlier ones gave."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, leaf: Leaf, **kwargs: Any
    ) -> None:
        super().__init__(option_strings, dest, **kwargs)
        self.leaf = leaf

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag = option_string or self.option_strings[0]
        value = not flag.startswith(_NEGATIVE) if self.nargs == 0 else parse_for(self.leaf, values)
        if self.leaf.is_text_list and isinstance(value, list):
            value = _given(namespace, self.leaf.path) + value
        namespace.overrides = [*namespace.overrides, Override(self.leaf.path, value, flag)]


class _Set(argparse.Action):
    """Append the Override of one `--set KEY=VALUE`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.overrides = [*namespace.overrides, set_override(values)]


def _given(namespace: argparse.Namespace, path: str) -> list[Any]:
    given = [override.value for override in namespace.overrides if override.path == path]
    return list(given[-1]) if given and isinstance(given[-1], list) else []


def flag_names(leaf: Leaf) -> tuple[str, ...]:
    """Return a field's flags, the generated one first: `--diloco-inner-steps`."""
    generated = "--" + leaf.path.replace(".", "-").replace("_", "-")
    negation = (f"--no-{generated.removeprefix('--')}",) if leaf.annotation is bool else ()
    return (generated, *ALIASES.get(leaf.path, ()), *negation)


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--set` and one flag per field; what is given is collected in `namespace.overrides`.

    Later ones win, in the order of the command line. Values are checked when all sources are
    merged, so that an error can say which source is wrong.
    """
    parser.set_defaults(overrides=[])
    parser.add_argument(
        "--set",
        action=_Set,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="set one value, for example diloco.inner_steps=200 (repeatable)",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for leaf in leaves():
        section = leaf.path.partition(".")[0] if "." in leaf.path else "run"
        if section not in groups:
            groups[section] = parser.add_argument_group(f"config: {section}")
        _add_flag(groups[section], leaf)


def _add_flag(group: argparse._ArgumentGroup, leaf: Leaf) -> None:
    text = (leaf.info.description or expected(leaf)).replace("%", "%%")
    switch: dict[str, Any] = (
        {"nargs": 0} if leaf.annotation is bool else {"metavar": _metavar(leaf)}
    )
    group.add_argument(
        *flag_names(leaf),
        action=_Give,
        leaf=leaf,
        dest=leaf.path,
        default=argparse.SUPPRESS,
        help=text,
        **switch,
    )


def _metavar(leaf: Leaf) -> str:
    if leaf.is_text_list:
        return "TEXT[,TEXT]"
    return leaf.path.rpartition(".")[2].upper()
