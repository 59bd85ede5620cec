import numpy as np
import pytest

from preparation.synthetic.surfaces import color_name, noise_texture, random_surface, texture_files


def test_split_of_textures(texture_root):
    train, val = texture_files([texture_root], "train"), texture_files([texture_root], "val")
    assert len(train) + len(val) == 12 and val
    assert not {p.stem[:-1] for p in train} & {p.stem[:-1] for p in val}
    assert not any(p.stem.startswith(("water", "plain")) for p in train + val)


def test_surfaces_are_reproducible_and_vary(texture_root):
    files = texture_files([texture_root], "train")
    first, again = (random_surface(files, np.random.default_rng(3), 96, 4) for _ in range(2))
    other = random_surface(files, np.random.default_rng(4), 96, 4)
    assert np.array_equal(first.texture, again.texture)
    assert first.texture.shape == (96, 96, 3)
    assert not np.array_equal(first.texture, other.texture)


def test_tiles_do_not_repeat_exactly(texture_root):
    files = texture_files([texture_root], "train")
    drawn = (random_surface(files, np.random.default_rng(seed), 96, 4) for seed in range(20))
    tiled = next(surface for surface in drawn if surface.name != "noise")
    tiles = tiled.texture.reshape(4, 24, 4, 24, 3).swapaxes(1, 2).reshape(16, -1)
    assert len(np.unique(tiles, axis=0)) == 16


def test_noise_is_textured_and_below_white():
    texture = noise_texture(np.random.default_rng(0), 128)
    assert texture.max() <= 235 and texture.std((0, 1)).min() > 8
    assert np.abs(np.diff(texture.astype(float), axis=0)).mean() > 1


@pytest.mark.parametrize(
    "rgb, name",
    [
        ((0.9, 0.1, 0.1), "red"),
        ((0.2, 0.7, 0.2), "green"),
        ((0.9, 0.1, 0.2), "red"),
        ((0.2, 0.2, 0.2), "dark grey"),
    ],
)
def test_colour_names(rgb, name):
    assert color_name(np.array(rgb)) == name


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="no usable image"):
        texture_files([tmp_path], "train")
