"""Grids read as latents: the same as encoding the pictures, or refused."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
import webdataset as wds

from datamodules import (
    ContextSelection,
    GridAugmentation,
    GridSelection,
    HomographyViews,
    SceneDataModule,
    Source,
    SourceDefaults,
)
from datamodules.collation import collate
from datamodules.selection import Extent
from datamodules.sources import GridReader
from preparation.latents import with_latents
from preparation.writing.variants import ClipVariants
from scene4d.networks.autoencoder import PatchAutoencoder, autoencoder_fingerprint, encode_grid
from scene4d.sample_changes import add_text
from scene4d.sample_format import decode_sample, encode_sample


def moving(scene, key, **shape):
    """A scene whose frames all differ."""
    sample = scene(key, **shape)
    noise = np.random.default_rng(0).integers(0, 60, sample.images.shape, dtype=np.uint8)
    return replace(sample, images=sample.images // 2 + noise)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return PatchAutoencoder(channels=4, width=64, depth=2).eval()


@pytest.fixture(scope="module")
def stored(codec, scene):
    """Members with latents: `stored(key, views=4, frames=13)`."""

    def make(key, **shape):
        members = encode_sample(moving(scene, key, **({"views": 4, "frames": 13} | shape)))
        return with_latents(members, codec, autoencoder_fingerprint(codec), ClipVariants(frames=9))

    return make


def grid(**changes):
    return GridSelection(**({"views": 3, "view_strides": [1], "frames": 9, "first_frame": True} | changes))


def both(members, selection, seed):
    """The grid read as latents and as pictures, everything random alike."""
    sources = [Source("objects", [], selection, latents=latents) for latents in (True, False)]
    return [GridReader(source, (16, 16), True, cache_mb=8)(members, Random(seed)) for source in sources]


@pytest.mark.parametrize("frames", [13, 1], ids=["video", "still"])
@pytest.mark.parametrize(
    "selection", [grid(reverse_views=1), grid(reverse_views=0), grid(views=2, view_strides=[2]), grid(frames=5),
                  grid(first_frame=False, random=False)]
)  # fmt: skip
def test_stored_latents_are_those_of_the_grid(codec, stored, frames, selection):
    members = stored("one", frames=frames)
    for seed in range(3):
        latents, pictures = both(members, selection, seed)
        with torch.no_grad():
            encoded = encode_grid(codec, pictures.images)
        torch.testing.assert_close(latents.latents.float(), encoded, rtol=1e-3, atol=1e-3)
        assert torch.equal(latents.cameras.c2w, pictures.cameras.c2w)
        assert torch.equal(latents.reference, pictures.reference) and torch.equal(
            latents.depths, pictures.depths
        )
        assert torch.equal(latents.frame_times, pictures.frame_times)
        assert latents.images.shape == pictures.images.shape and latents.images.isnan().all()
        assert not any(latents.images.stride()) and latents.autoencoder == autoencoder_fingerprint(codec)


def test_frames_behind_the_last_group_are_left_out(codec, stored):
    eleven, nine = (decode_sample(stored("one", frames=frames), latents=True) for frames in (11, 9))
    assert eleven.latents.shape == (4, 4, 3, 2, 2) and eleven.images.shape[1] == 11
    assert nine.latents.shape == (4, 4, 3, 2, 2)


@pytest.mark.parametrize(
    "option, changes",
    [
        ("selection.first_frame False", {"selection": grid(first_frame=False)}),
        (r"selection.frame_strides \(1, 2\)", {"selection": grid(frame_strides=[1, 2])}),
        (r"selection.frame_strides \(2,\)", {"selection": grid(frame_strides=[2], random=False)}),
        ("selection.reverse_time 0.5", {"selection": grid(reverse_time=0.5)}),
        ("selection is a ContextSelection", {"selection": ContextSelection()}),
        (
            "homography given; .*preparation.latents --variants and --homography",
            {"homography": HomographyViews()},
        ),
        ("augmentation.flip 0.5; .* --augmentation", {"augmentation": GridAugmentation()}),
        (
            "augmentation.permute_channels 1; .* --variants and --augmentation",
            {"augmentation": GridAugmentation(0, permute_channels=1)},
        ),
        (
            "augmentation.gamma 0.2; .* --variants and --augmentation",
            {"augmentation": GridAugmentation(flip=0, gamma=0.2)},
        ),
        (
            "augmentation.gain 0.1; .* --variants and --augmentation",
            {"augmentation": GridAugmentation(flip=0, gain=0.1)},
        ),
    ],
)
def test_what_needs_pixels_is_refused_at_once(option, changes):
    arguments = {"name": "clips", "urls": [], "selection": grid()} | changes
    Source(**arguments)
    with pytest.raises(ValueError, match=rf"^source 'clips'.*{option}$"):
        Source(**arguments, latents=True)
    Source("clips", [], grid(), augmentation=GridAugmentation(flip=0), latents=True)
    defaults = {name: value for name, value in changes.items() if name != "homography"}
    if defaults:
        given = {"selection": grid()} | defaults
        with pytest.raises(ValueError, match=rf"^source 'clips'.*{option}$"):
            Source("clips", [], latents=True).filled(SourceDefaults(**given))


def test_other_sizes_and_too_few_frames_are_refused(stored):
    members = stored("one")
    reader = GridReader(Source("objects", [], grid(), latents=True), (8, 8), False, 0)
    with pytest.raises(
        ValueError, match=r"'one' has latents of \(16, 16\).*'objects' asks for \(8, 8\).* --size"
    ):
        reader(members, Random(0))
    reader = GridReader(Source("objects", [], grid(frames=13), latents=True), (16, 16), False, 0)
    assert reader(members, Random(0)).latents.shape[3] == 4
    with pytest.raises(ValueError, match="'still' has latents of 9 frames, 13 are asked for; stills"):
        reader(stored("still", frames=1), Random(0))


def test_first_frame_starts_at_zero():
    extent, rng = Extent("a", views=8, frames=29), Random(0)
    drawn = [grid(first_frame=True).select(extent, rng) for _ in range(50)]
    assert {one.frames[0] for one in drawn} == {0} and len({one.views[0] for one in drawn}) > 3
    assert len({grid(first_frame=False).select(extent, rng).frames[0] for _ in range(50)}) > 5


def test_joined_batches_hold_latents_of_one_kind(stored):
    one, picture = both(stored("one"), grid(), 0)
    two = both(stored("two"), grid(), 0)[0]
    batch = collate([one, two])
    assert torch.equal(batch.latents, torch.cat([one.latents, two.latents]))
    assert batch.images.shape == (2, 3, 9, 3, 16, 16) and batch.images.untyped_storage().nbytes() == 4
    assert batch.autoencoder == one.autoencoder and collate([picture]).latents is None
    for other in (picture, replace(two, autoencoder="other"), replace(two, latents=two.latents[:, :, :2])):
        with pytest.raises(ValueError, match=r"\['one', '\w+'\] cannot share a batch, their latents"):
            collate([one, other])


def captioned(stored, key, encoder, channels=4):
    members = add_text(stored(key), np.full((2, channels), 0.5, np.float32), encoder)
    return GridReader(Source("objects", [], grid(), latents=True), (16, 16), False, 0)(members, Random(0))


def test_text_and_latents_come_from_one_sample(codec, stored):
    scene = captioned(stored, "one", "minilm")
    assert scene.text.shape == (1, 2, 4) and scene.text_encoder == "minilm"
    assert scene.latents is not None and scene.autoencoder == autoencoder_fingerprint(codec)


def test_joined_captions_come_from_one_text_encoder(stored):
    one, two = captioned(stored, "one", "minilm"), captioned(stored, "two", "minilm")
    unknown = replace(captioned(stored, "old", "minilm"), text_encoder=None)
    without = replace(two, text=None, text_encoder=None)
    assert collate([one, two]).text_encoder == "minilm" == collate([unknown, one]).text_encoder
    assert collate([without, one]).text_encoder == "minilm" and not collate([without, one]).text[0].any()
    assert collate([unknown, unknown]).text_encoder is None
    named = r"^samples cannot share a batch, .* 'one' by minilm \(4 channels\), 'two' by {} \({} channels\); [^\n]+$"
    with pytest.raises(ValueError, match=named.format("umt5", 4)):
        collate([one, captioned(stored, "two", "umt5")])
    with pytest.raises(ValueError, match=named.format("an unknown one", 6)):
        collate([one, replace(captioned(stored, "two", "", 6), text_encoder=None)])


def test_sources_with_and_without_latents_share_a_mixture(stored, tmp_path):
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for key in ("one", "two", "three"):
            writer.write(stored(key))
    sources = [Source(f"latents_{x}", [f"{tmp_path}/a.tar"], grid(), latents=x) for x in (True, False)]
    for workers in (0, 1):
        data = SceneDataModule(train=sources, batch_size=2, num_workers=workers, size=16)
        data.setup("fit")
        batches = [batch for _, batch in zip(range(4), data.train_dataloader())]
        assert (
            sorted(batch.source for batch in batches)
            == [["latents_False"] * 2] * 2 + [["latents_True"] * 2] * 2
        )
        for batch in batches:
            assert (batch.latents is not None) == (batch.source[0] == "latents_True")
            assert batch.images.isfinite().all() == (batch.latents is None)
