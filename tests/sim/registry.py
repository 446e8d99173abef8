"""Scenarios by name: those that `@scenario` marked, and any `module:function`."""

import importlib
import pkgutil
from collections.abc import Callable

import tests.sim.scenarios as package
from tests.sim.sim import Scenario

_SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario that must hold for every seed, under a name unique in the registry."""

    def register(function: Scenario) -> Scenario:
        if name in _SCENARIOS:
            raise ValueError(f"two scenarios are called {name!r}")
        function.scenario_name = name  # type: ignore[attr-defined]
        _SCENARIOS[name] = function
        return function

    return register


def scenarios() -> dict[str, Scenario]:
    """Return all registered scenarios by name, importing every file in `tests/sim/scenarios`."""
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda each: each.name):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_SCENARIOS.items()))


def find(name: str) -> Scenario:
    """Return the scenario called `name`, or the one at `module:function`.

    Raises:
        LookupError: there is none; the message lists what exists.
    """
    known = scenarios()
    if name in known:
        return known[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise LookupError(f"no scenario {name!r}; there are: {', '.join(known)}")
    found: Scenario = getattr(importlib.import_module(module), function)
    return found
