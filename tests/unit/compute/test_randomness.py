"""Seeded forwards draw the same numbers, and only those that draw pay for it."""

import torch
from torch.nn.functional import dropout

from distqatd.compute.randomness import SeededForward

CPU = torch.device("cpu")


def draw():
    return dropout(torch.ones(100))


def test_the_same_seed_draws_the_same_and_another_does_not():
    seeded = SeededForward(CPU, 0, "front")
    first = seeded(draw, 1)
    torch.rand(5)
    assert torch.equal(seeded(draw, 1), first)
    assert not torch.equal(seeded(draw, 2), first)
    assert torch.equal(SeededForward(CPU, 0, "front")(draw, 1), first)


def test_two_stages_do_not_share_their_masks():
    first, second = SeededForward(CPU, 0, "front"), SeededForward(CPU, 0, "back")
    assert not torch.equal(first(draw, 1), second(draw, 1))


def test_the_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    SeededForward(CPU, 0)(draw, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stage_that_draws_nothing_is_run_plainly_from_the_second_time_on():
    seeded = SeededForward(CPU, 0)
    seeds = []
    for _ in range(3):
        seeded(lambda: seeds.append(torch.initial_seed()), 1)
    assert seeds[0] != seeds[1]
    assert seeds[1] == seeds[2] == torch.initial_seed()
