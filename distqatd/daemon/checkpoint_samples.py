"""Images drawn from the model of a checkpoint, as a PNG file; `distqatctl checkpoint sample`."""

from pathlib import Path

from torch import Tensor, nn

from distqatd.api.checkpoint_schema import Sampled
from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.reading import Checkpoint
from distqatd.checkpoint.store import read_run_config
from distqatd.compute.sampling import sample_images
from distqatd.config.run import load_run
from distqatd.config.sections import Config
from distqatd.daemon.checkpoint_files import find_checkpoint, trained_stages
from distqatd.data.png import png_grid

WIDE = 512
"""Small images are enlarged until the file is at least so wide, pixels."""


class _Chain(nn.Module):
    """The stages of a checkpoint, one after the other."""

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        super().__init__()
        self.stages = nn.ModuleList(trained_stages(checkpoint, config))

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run all of them."""
        for stage in self.stages:
            values = stage(*values)
        return values


def sample(
    source: Path, target: Path, outer_step: int | None, num_images: int, seed: int
) -> Sampled:
    """Draw images from a checkpoint's model and write them as a grid.

    Args:
        source: a folder of checkpoints, or one checkpoint.
        target: the PNG file.
        outer_step: of the checkpoint to take; the newest good one by default.
        num_images: how many.
        seed: of what is drawn.

    Raises:
        CheckpointError: no such checkpoint, it is corrupt, or the target is there already.
        ConfigError: its run is not one of image generation.
        UnknownModel: the model is not on this machine.
    """
    if target.exists():
        raise CheckpointError(f"{target} is there already; name another file, or remove it")
    checkpoint = find_checkpoint(source, outer_step)
    config = load_run(Config(), read_run_config(checkpoint))
    images = sample_images(_Chain(checkpoint, config).eval(), config.data, num_images, seed)
    columns = min(num_images, max(1, round(num_images**0.5)))
    content = png_grid(images, zoom=max(1, WIDE // (columns * config.data.img_size)))
    try:
        target.write_bytes(content)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror}") from error
    manifest = checkpoint.manifest
    return Sampled(
        file=str(target), run=manifest.run, outer_step=manifest.outer_step, num_images=num_images
    )
