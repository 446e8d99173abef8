"""A pole on a cart, and how much better each push is: the data of a policy.

The swarm trains on batches that are a function of their number, so nothing here depends on the
policy in training. Sample i is a state, drawn from all that can occur, with an estimate of what
each action earns if random actions follow it: the mean over rollouts of the environment, the same
random actions after either. A policy that prefers the better action is one step of policy
iteration from the random policy, which is enough here. It learns from rewards alone; it is off
policy, and not a method for environments that random play does not get far in.
[source: Lagoudakis and Parr, Reinforcement Learning as Classification, ICML 2003]

The environment is that of Barto, Sutton and Anderson, Neuronlike adaptive elements that can solve
difficult learning control problems, IEEE SMC 13 (1983), with the constants, Euler steps and limits
of CartPole-v1 of Gymnasium: a reward of 1 for every step, 500 steps at most.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.numbers import bits, uniform
from distqatd.data.source import Raw

GRAVITY = 9.8
CART_KG = 1.0
POLE_KG = 0.1
HALF_POLE_M = 0.5
PUSH_N = 10.0
STEP_S = 0.02
MAX_X_M = 2.4
MAX_ANGLE = 12 * np.pi / 180
MAX_STEPS = 500
NUM_ACTIONS = 2

_DRAWN_UP_TO = np.array([MAX_X_M, 2.0, MAX_ANGLE, 2.0])
"""Of states to train on: metres, m/s, radians, rad/s; faster ones are lost or do not occur."""

_STARTS_UP_TO = 0.05
_ROLLOUTS = 8
_ROLLOUT_STEPS = 64
"""Steps of a rollout, one random bit each; random play is over after 22 on average."""

_NUM_SAMPLES = 1 << 14
_EPISODES = 32

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def advance(states: Floats, actions: Int64s) -> Floats:
    """Return the states one step later, float64 (N, 4): place, speed, angle, angular speed.

    Args:
        states: the same, before.
        actions: int64 (N,), 0 pushes left and 1 pushes right.
    """
    _, speed, angle, turning = states.T
    push = np.where(actions == 1, PUSH_N, -PUSH_N)
    cos, sin = np.cos(angle), np.sin(angle)
    mass = CART_KG + POLE_KG
    common = (push + POLE_KG * HALF_POLE_M * turning**2 * sin) / mass
    grip = HALF_POLE_M * (4.0 / 3.0 - POLE_KG * cos**2 / mass)
    turning_change = (GRAVITY * sin - cos * common) / grip
    speed_change = common - POLE_KG * HALF_POLE_M * turning_change * cos / mass
    rates = np.stack([speed, speed_change, turning, turning_change], axis=1)
    return states + STEP_S * rates


def is_over(states: Floats) -> npt.NDArray[np.bool_]:
    """Return in which states the cart has left its track or the pole has fallen, bool (N,)."""
    over: npt.NDArray[np.bool_] = (np.abs(states[:, 0]) > MAX_X_M) | (
        np.abs(states[:, 2]) > MAX_ANGLE
    )
    return over


class CartPole:
    """A `Source` of states float32 (4,) and estimated returns of the two actions float32 (2,)."""

    num_classes = NUM_ACTIONS

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def read(self, numbers: Tensor) -> Raw:
        """Return states (B, 4) and the actions' returns (B, 2)."""
        samples = numbers.numpy()
        states = (2 * uniform(samples, 4, "cartpole", "state") - 1) * _DRAWN_UP_TO
        chances = bits(samples, _ROLLOUTS, "cartpole", "rollouts")
        returns = [_roll_out(states, action, chances) for action in range(NUM_ACTIONS)]
        targets = torch.from_numpy(np.stack(returns, axis=1)).float()
        return (torch.from_numpy(states).float(),), (targets,)

    def trial(self) -> "Episodes":
        """Return episodes from fixed starts."""
        return Episodes.begin(_EPISODES)


def _roll_out(states: Floats, action: int, chances: npt.NDArray[np.uint64]) -> Floats:
    """Return what `action` earns, with random actions after it, mean over rollouts: (B,).

    Args:
        states: (B, 4).
        action: the first one.
        chances: uint64 (B, R), whose bits are the actions of R rollouts.
    """
    played = np.repeat(states, chances.shape[1], axis=0)
    actions = np.full(len(played), action)
    running = np.arange(len(played))
    earned = np.zeros(len(played))
    left = chances.reshape(-1)
    for _ in range(_ROLLOUT_STEPS):
        played = advance(played, actions)
        going = ~is_over(played)
        played, running, left = played[going], running[going], left[going]
        earned[running] += 1
        if not len(running):
            break
        actions, left = (left & np.uint64(1)).astype(np.int64), left >> np.uint64(1)
    means: Floats = earned.reshape(chances.shape).mean(axis=1)
    return means


@dataclass(slots=True)
class Episodes:
    """A `Trial`: episodes side by side, the action with the highest score taken in each."""

    _states: Floats
    _going: npt.NDArray[np.bool_]
    _earned: Int64s

    @classmethod
    def begin(cls, count: int) -> "Episodes":
        """Start `count` episodes with the pole nearly upright; the same ones every time."""
        drawn = uniform(np.arange(count), 4, "cartpole", "start")
        states = (2 * drawn - 1) * _STARTS_UP_TO
        return cls(states, np.ones(count, dtype=bool), np.zeros(count, dtype=np.int64))

    def inputs(self) -> tuple[Tensor, ...] | None:
        """Return the states of all episodes (N, 4); those that are over stay where they ended."""
        if not self._going.any() or self._earned.max() >= MAX_STEPS:
            return None
        return (torch.from_numpy(self._states).float(),)

    def act(self, outputs: tuple[Tensor, ...]) -> None:
        """Take the actions with the highest of the scores (N, 2)."""
        actions = outputs[0].float().argmax(1).cpu().numpy()
        after = advance(self._states, actions)
        self._states = np.where(self._going[:, None], after, self._states)
        self._earned += self._going  # the step that ends an episode is rewarded too
        self._going &= ~is_over(self._states)

    def sums(self) -> dict[str, float]:
        """Return the sum of the episodes' returns, and how many they are."""
        return {"return": float(self._earned.sum()), "episodes": float(len(self._earned))}


def open_cartpole(config: DataConfig) -> CartPole:
    """Return states of the environment.

    Raises:
        ConfigError: the task is not rl.
    """
    if config.task_type != "rl":
        raise ConfigError(f"data.task_type is {config.task_type!r}; cartpole needs 'rl'")
    return CartPole(config.num_samples or _NUM_SAMPLES)
