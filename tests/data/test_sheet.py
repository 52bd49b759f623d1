"""The sheet of pictures that training runs leave."""

import torch
from PIL import Image

from tinybridge.data.sheet import sheet


def test_sheet_has_a_cell_for_every_picture(tmp_path):
    red, blue = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    red[:, 0], blue[:, 2] = 1, 1
    sheet(tmp_path / "s.png", [red, blue], ["r", "b"], [["1", "2"]] * 2, ["x", "y"], side=40)
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (96 + 2 * 46, 22 + 2 * (40 + 6 + 22))
        assert image.getpixel((96 + 20, 22 + 20)) == (255, 0, 0)
        assert image.getpixel((96 + 46 + 20, 22 + 68 + 20)) == (0, 0, 255)
