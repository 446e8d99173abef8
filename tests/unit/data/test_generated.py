"""The data sets that need no file: spoken, karate, cartpole; and random numbers by place."""

import networkx
import numpy as np
import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data import cartpole, karate
from distqatd.data.cartpole import CartPole, open_cartpole
from distqatd.data.karate import open_karate
from distqatd.data.numbers import bits, normal, uniform
from distqatd.data.source import IGNORED
from distqatd.data.spoken import Spoken, open_spoken


def test_numbers_do_not_depend_on_those_drawn_beside_them() -> None:
    together = uniform(np.arange(50), 4, "key")
    assert np.array_equal(together[[7]], uniform(np.array([7]), 4, "key"))
    assert not np.array_equal(together, uniform(np.arange(50), 4, "other"))


def test_numbers_are_pinned_because_peers_of_other_versions_must_agree() -> None:
    assert bits(np.array([0, 1]), 1, "key").tolist() == [
        [16302788922850549107],
        [3530387103138823108],
    ]


def test_numbers_are_distributed_as_they_say() -> None:
    flat, bell = uniform(np.arange(200), 50, 0), normal(np.arange(200), 50, 0)
    assert ((flat >= 0) & (flat < 1)).all()
    assert abs(flat.mean() - 0.5) < 0.01
    assert abs(bell.mean()) < 0.03
    assert abs(bell.std() - 1) < 0.03


def test_a_recording_is_sound_and_then_silence() -> None:
    (audio, lengths), (labels,) = Spoken(40, 800, 8000).read(torch.arange(40))
    assert (audio.dtype, audio.shape, lengths.dtype) == (torch.float32, (40, 800), torch.int64)
    assert labels.tolist() == [n % 10 for n in range(40)]
    assert ((lengths >= 400) & (lengths <= 800)).all()
    assert all((row[length:] == 0).all() for row, length in zip(audio, lengths, strict=True))
    assert all((row[:length] != 0).any() for row, length in zip(audio, lengths, strict=True))


def test_a_recording_does_not_depend_on_its_batch() -> None:
    source = Spoken(40, 800, 8000)
    (together, _), _ = source.read(torch.tensor([3, 31]))
    (alone, _), _ = source.read(torch.tensor([31]))
    assert torch.equal(together[1:], alone)


def test_the_loudest_frequencies_are_the_tones_of_the_label() -> None:
    (audio, lengths), _ = Spoken(1, 4000, 8000).read(torch.tensor([0]))
    sound = audio[0, : int(lengths[0])]
    power = torch.fft.rfft(sound).abs()
    hertz = torch.fft.rfftfreq(len(sound), 1 / 8000)
    low, high = hertz < 1100, hertz >= 1100
    assert float(hertz[low][power[low].argmax()]) == pytest.approx(941, rel=0.02)
    assert float(hertz[high][power[high].argmax()]) == pytest.approx(1336, rel=0.02)


def test_the_club_is_that_of_networkx() -> None:
    oracle = networkx.karate_club_graph()
    source = open_karate(DataConfig(dataset_name="karate", task_type="node_pred"))
    (features, adjacency), (targets,) = source.read(torch.arange(34))
    theirs = networkx.to_numpy_array(oracle, weight=None)
    labels = [int(oracle.nodes[node]["club"] == "Officer") for node in oracle]
    assert torch.equal(adjacency[5], torch.tensor(theirs, dtype=torch.float32))
    assert torch.equal(features[33], torch.eye(34))
    assert torch.diagonal(targets).tolist() == labels
    assert (targets == IGNORED).sum() == 34 * 33


def test_members_who_are_friends_of_nobody_do_not_exist() -> None:
    befriended = {friend for friends in karate.FRIENDS for friend in friends}
    assert all(friends or n in befriended for n, friends in enumerate(karate.FRIENDS))


def test_a_pole_falls_and_a_push_turns_it_the_other_way() -> None:
    tilted = np.array([[0.0, 0.0, 0.1, 0.0]])
    for action, sign in ((1, -1), (0, 1)):
        after = cartpole.advance(tilted, np.array([action]))
        assert after[0, 1] * (2 * action - 1) > 0
        assert after[0, 3] * sign > 0


def test_one_step_is_that_of_the_published_environment() -> None:
    # CartPole-v1 of Gymnasium 1.0: reset to zeros, then push right.
    after = cartpole.advance(np.zeros((1, 4)), np.array([1]))
    assert after[0] == pytest.approx([0.0, 0.1951219512195122, 0.0, -0.2926829268292683])


def test_returns_favour_the_push_that_catches_the_pole() -> None:
    source = CartPole(1000)
    (states,), (returns,) = source.read(torch.arange(500))
    falling = (states[:, 2] * states[:, 3] > 0) & (returns[:, 0] != returns[:, 1])
    right = returns[falling, 1] > returns[falling, 0]
    assert falling.sum() > 50
    assert (right == (states[falling, 2] > 0)).float().mean() > 0.9
    (_, (alone,)) = source.read(torch.tensor([499]))
    assert torch.equal(alone[0], returns[499])


def play(policy: torch.Tensor) -> float:
    trial = CartPole(10).trial()
    while (inputs := trial.inputs()) is not None:
        score = inputs[0] @ policy
        trial.act((torch.stack([-score, score], dim=1),))
    sums = trial.sums()
    return sums["return"] / sums["episodes"]


def test_a_trial_plays_to_the_end() -> None:
    assert play(torch.zeros(4)) < 15  # always pushes left
    assert play(torch.tensor([0.05, 0.2, 1.0, 0.5])) == cartpole.MAX_STEPS


@pytest.mark.parametrize(
    ("opener", "message"),
    [(open_spoken, "'speech'"), (open_karate, "'node_pred'"), (open_cartpole, "'rl'")],
)
def test_another_task_is_refused(opener, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opener(DataConfig())


def test_tones_that_do_not_fit_the_sampling_rate_are_refused() -> None:
    with pytest.raises(ConfigError, match="8000"):
        open_spoken(DataConfig(task_type="speech", sampling_rate=2900))
