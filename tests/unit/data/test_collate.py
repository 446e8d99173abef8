"""Noise, and the schedule it follows."""

import torch

from distqatd.config.sections import DataConfig
from distqatd.data.batches import Finish, open_dataset
from distqatd.data.collate import make_collate
from distqatd.data.diffusion import add_noise, noise_schedule

CONFIG = DataConfig(task_type="image_gen", noise_steps=100, mean=(0.5,), std=(0.5,))


def test_the_schedule_is_that_of_the_paper() -> None:
    left = noise_schedule(1000, 1e-4, 0.02)
    assert left[0] == 1 - 1e-4
    assert abs(left[-1].item() - 4.0358e-5) < 1e-8
    assert (left.diff() < 0).all()


def test_noise_keeps_the_variance_of_images_of_variance_one() -> None:
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(64, 1, 16, 16, generator=generator) for _ in range(2))
    for left in (0.9, 0.5, 0.1):
        noisy = add_noise(images, noise, torch.full((64,), left, dtype=torch.float64))
        assert abs(noisy.var().item() - 1) < 0.05


def test_noise_and_steps_are_a_function_of_seed_and_batch() -> None:
    first, again = (open_dataset(CONFIG, seed=1, batch_size=8) for _ in range(2))
    other = open_dataset(CONFIG, seed=2, batch_size=8)
    first.batch(0)
    assert torch.equal(first.batch(5).inputs[0], again.batch(5).inputs[0])
    assert torch.equal(first.batch(5).inputs[1], again.batch(5).inputs[1])
    assert not torch.equal(first.batch(5).targets[0], first.batch(6).targets[0])
    assert not torch.equal(first.batch(5).targets[0], other.batch(5).targets[0])


def test_validation_has_the_same_noise_whatever_the_seed() -> None:
    ones = [next(open_dataset(CONFIG, seed, 8).validation_batches()) for seed in (1, 2)]
    assert torch.equal(ones[0].inputs[0], ones[1].inputs[0])


def test_the_noise_can_be_taken_out_again() -> None:
    dataset = open_dataset(CONFIG, seed=0, batch_size=8)
    raw = dataset.read(3)
    batch = Finish.of(CONFIG, 0, 8).training(raw, 3)
    (noisy, steps), (noise,) = batch.inputs, batch.targets
    left = noise_schedule(100, CONFIG.beta_start, CONFIG.beta_end)[steps].view(-1, 1, 1, 1).float()
    images = (noisy - (1 - left).sqrt() * noise) / left.sqrt()
    assert torch.allclose(images, raw[0][0] * 2 - 1, atol=1e-4)


def test_only_images_are_normalised() -> None:
    collate = make_collate(DataConfig(mean=(0.5,), std=(0.5,)))
    text = torch.arange(6).view(2, 3)
    assert torch.equal(collate(((text,), ()), 0)[0][0], text)
    white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(collate(((white,), ()), 0)[0][0], torch.ones(1, 1, 2, 2))
