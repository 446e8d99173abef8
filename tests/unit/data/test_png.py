"""PNG files by hand, read back by an imaging library."""

import io

import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.data.png import png_grid

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_what_was_put_into_it(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, channels, 4, 6), generator=generator).to(torch.uint8)
    with Image.open(io.BytesIO(png_grid(images, zoom=2))) as opened:
        assert opened.mode == {1: "L", 3: "RGB"}[channels]
        assert opened.size == (2 * (3 * 7 - 1), 2 * (2 * 5 - 1))
        for index in range(5):
            top, left = 2 * 5 * (index // 3), 2 * 7 * (index % 3)
            for y, x in ((0, 0), (3, 5), (2, 1)):
                found = opened.getpixel((left + 2 * x + 1, top + 2 * y))
                expected = tuple(images[index, :, y, x].tolist())
                assert (found if channels == 3 else (found,)) == expected


def test_what_has_no_colours_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 channels"):
        png_grid(torch.zeros((1, 2, 4, 4), dtype=torch.uint8))
