"""Images drawn from diffusion models: trained ones are nearer to the data."""

import pytest
import torch
from torch import nn

from distqatd.base.errors import ConfigError
from distqatd.compute.sampling import sample_images
from distqatd.config.load import load
from distqatd.config.sections import DataConfig
from distqatd.data.batches import open_dataset
from distqatd.data.diffusion import noise_schedule
from distqatd.roles import baseline

STEPS = {"noise_steps": 40, "beta_start": 2e-3, "beta_end": 0.4}
GREY = DataConfig(task_type="image_gen", mean=(0.5,), std=(0.5,), **STEPS)


def distance(images, data):
    """Return how far images lie from the nearest of the data, in whites, on average."""
    flat, wanted = (tensor.flatten(1).float() / 255 for tensor in (images, data))
    return torch.cdist(flat, wanted).amin(1).mean().item()


def test_a_trained_model_draws_what_is_nearer_to_the_data_than_an_untrained_one():
    config = load(("diffusion_digits",), env={}, overrides=[]).config
    data = config.data.model_copy(update=STEPS)
    diloco = config.diloco.model_copy(update={"outer_steps": 3})
    config = config.model_copy(update={"data": data, "diloco": diloco})
    dataset = open_dataset(data, config.seed, diloco.batch_size)
    ((digits,), _) = dataset.read_validation(0)
    digits = digits * 255  # the source has them as floats
    model = baseline.whole_model(config, torch.device("cpu"))

    def drawn():
        return sample_images(model.eval(), data, 16, seed=1)

    before = drawn()
    for _ in baseline.train(config, model, dataset):
        pass
    after = drawn()
    assert torch.equal(after, drawn())
    assert (after.shape, after.dtype) == ((16, 1, 8, 8), torch.uint8)
    near = distance(digits[:8], digits[8:])
    assert distance(after, digits) < 0.6 * distance(before, digits)
    assert distance(after, digits) < 1.5 * near


class Knows(nn.Module):
    """Predicts the noise exactly, where all images are one shade of grey."""

    def __init__(self, shade, left):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(()))
        self.shade, self.left = shade, left

    def forward(self, images, steps):
        left = self.left[steps].float().view(-1, 1, 1, 1)
        return ((images - left.sqrt() * self.shade) / (1 - left).sqrt(),)


@pytest.mark.parametrize("shade", [-1.0, -0.25, 1.0])
def test_a_model_that_knows_the_noise_draws_the_data(shade):
    left = noise_schedule(GREY.noise_steps, GREY.beta_start, GREY.beta_end)
    images = sample_images(Knows(shade, left), GREY, 3, seed=0)
    assert (images == round((shade + 1) / 2 * 255)).all()


def test_what_is_no_diffusion_model_is_refused():
    with pytest.raises(ConfigError, match="task_type cv makes no images"):
        sample_images(nn.Identity(), DataConfig(), 1, 0)
    with pytest.raises(ConfigError, match="0 images"):
        sample_images(nn.Identity(), GREY, 0, 0)
