"""Stored variants of a clip: to the bit what the reader gives, drawn uniformly, with cameras only where they hold."""

import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from datamodules import GridAugmentation, GridSelection, HomographyViews, Source
from datamodules.sources import GridReader
from preparation.latents import with_latents
from preparation.writing.variants import ClipVariants
from scene4d.networks.autoencoder import PatchAutoencoder, autoencoder_fingerprint, encode_grid
from scene4d.sample_format import SceneSample, decode_sample, encode_sample

COLOURS = GridAugmentation(flip=0.5, permute_channels=0.5, gamma=0.2, gain=0.2)
SOFT = GridAugmentation(flip=0, gamma=0.5)
MIRROR = GridAugmentation(flip=1)
KINDS = {
    "plain": (4, 13, ClipVariants(frames=9)),
    "colours": (4, 9, ClipVariants(variants=3, augmentation=COLOURS)),
    "still": (3, 1, ClipVariants(frames=9, variants=3, augmentation=COLOURS, seed=4)),
    "size": (3, 5, ClipVariants(variants=2, size=(16, 24), augmentation=COLOURS)),
    "homography": (1, 9, ClipVariants(variants=3, size=(16, 16), homography=HomographyViews(views=4))),
    "both": (1, 5, ClipVariants(variants=3, augmentation=COLOURS, homography=HomographyViews(views=5))),
}


def clip(views, frames, key="one") -> SceneSample:
    images = np.random.default_rng(0).integers(0, 256, (views, frames, 8, 8, 3), dtype=np.uint8)
    images = images.repeat(4, 2).repeat(4, 3)
    if views == 1:
        return SceneSample(key, "homography", images, 12.0)
    c2w = np.tile(np.eye(4, dtype=np.float32), (views, 1, 1))
    c2w[:, 0, 3] = np.arange(views)
    intrinsics = np.tile(np.array([[20, 0, 15], [0, 20, 16], [0, 0, 1]], np.float32), (views, 1, 1))
    depths = np.random.default_rng(1).uniform(1, 2, (views, 1, 32, 32)).astype(np.float32)
    return SceneSample(key, "objects", images, 12.0, c2w, intrinsics, depths, [0])


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return PatchAutoencoder(channels=4, width=64, depth=1).eval()


def stored(codec, views, frames, clips):
    return with_latents(encode_sample(clip(views, frames)), codec, autoencoder_fingerprint(codec), clips)


def everything(members, clips, frames):
    """The selection of all views and all frames, without anything random."""
    views = clips.homography.views if clips.homography else json.loads(members["meta.json"])["views"]
    return GridSelection(views=views, view_strides=[1], frames=frames, random=False)


@pytest.mark.parametrize("kind", KINDS)
def test_each_variant_is_to_the_bit_the_grid_of_the_reader(codec, kind):
    views, frames, clips = KINDS[kind]
    members, frames = stored(codec, views, frames, clips), 9 if frames == 1 else frames
    seen = []
    for variant in range(clips.variants):
        plain = variant == 0 and not clips.homography
        source = Source("x", [], everything(members, clips, frames), homography=clips.homography,
                        augmentation=None if plain else clips.augmentation)  # fmt: skip
        reader = GridReader(source, clips.size or (32, 32), depth=False, cache_mb=0)
        pictures = reader(members, Random(f"{clips.seed}/one/{variant}")).images
        with torch.no_grad():
            wanted = torch.cat(
                [encode_grid(codec, pictures[:, k : k + 1]) for k in range(pictures.shape[1])], 1
            )
        found = decode_sample(members, latents=True, variant=variant)
        assert found.images.shape[:4] == (*pictures.shape[1:2], found.images.shape[1], *pictures.shape[4:])
        wanted = wanted[0].transpose(1, 2).half().numpy()
        assert found.latents.dtype == np.float16 and np.array_equal(found.latents, wanted)
        seen.append(found.latents)
    assert all(not np.array_equal(seen[0], other) for other in seen[1:])


def test_a_plain_clip_has_the_members_and_entries_of_before_there_were_variants(codec):
    members = stored(codec, 4, 13, ClipVariants(frames=9))
    meta = json.loads(members["meta.json"])
    assert meta["latents"].keys() == {"autoencoder", "shape"}
    assert sorted(name for name in members if "latents" in name) == [f"latents_0{k}.npy" for k in range(4)]


@pytest.mark.parametrize("kind", ["colours", "homography"])
def test_reading_draws_the_variants_uniformly_and_evaluation_takes_the_first(codec, kind):
    views, frames, clips = KINDS[kind]
    members = stored(codec, views, frames, clips)
    variants = [decode_sample(members, latents=True, variant=k).latents for k in range(3)]

    def drawn(random, seed):
        selection = GridSelection(3, [1], 5, reverse_views=1, random=random, first_frame=True)
        source = Source("x", [], selection, latents=True)
        grid = GridReader(source, clips.size or (32, 32), True, 0)(members, Random(seed))
        assert grid.images.shape == (1, 3, 5, 3, *(clips.size or (32, 32))) and grid.frame_times.shape == (
            1,
            5,
        )
        latents = grid.latents[0].transpose(1, 2).numpy()
        places = [
            (k, start)
            for k, stored_latents in enumerate(variants)
            for start in range(len(stored_latents) - 2)
            for order in (slice(start, start + 3),)
            if np.array_equal(latents, stored_latents[order, :, :2][:: -1 if random else 1])
        ]
        assert len(places) == 1
        return places[0][0]

    counts = Counter(drawn(True, seed) for seed in range(120))
    assert sorted(counts) == [0, 1, 2] and min(counts.values()) > 25
    assert {drawn(False, seed) for seed in range(5)} == {0}


def test_cameras_and_depth_stay_where_they_hold(codec):
    def kept(views, clips):
        members = stored(codec, views, 5, clips)
        samples = [decode_sample(members, latents=True, variant=k) for k in range(clips.variants)]
        assert all((x.c2w is None) == (x.depths is None) == (x.intrinsics is None) for x in samples)
        return [sample.c2w is not None for sample in samples]

    assert kept(2, ClipVariants(variants=2, augmentation=SOFT)) == [True, True]
    assert kept(2, ClipVariants(variants=3, augmentation=MIRROR)) == [True, False, False]
    assert kept(2, ClipVariants(size=(16, 16))) == [False]
    assert kept(2, ClipVariants(homography=HomographyViews(views=2))) == [False]


def test_variants_follow_from_key_and_seed(codec):
    clips = KINDS["both"][2]
    one, again = (stored(codec, 1, 5, clips) for _ in range(2))
    assert one == again
    other = stored(codec, 1, 5, replace(clips, seed=1))
    assert one["latents_00_01.npy"] != other["latents_00_01.npy"]


def test_fewer_variants_replace_all_of_more(codec):
    more = stored(codec, 1, 5, KINDS["both"][2])
    plain = with_latents(more, codec, "x", ClipVariants())
    assert [name for name in plain if "latents" in name] == ["latents_00.npy"]
    assert decode_sample(plain, latents=True).latents.shape[0] == 1
    assert set(json.loads(plain["meta.json"])["crc32"]) == {"view_00.mp4", "latents_00.npy"}
    with pytest.raises(ValueError, match="'one' has 1 variants of latents, asked for 1"):
        decode_sample(plain, latents=True, variant=1)


def test_damage_of_one_variant_is_named(codec):
    members = stored(codec, 2, 5, ClipVariants(variants=2, augmentation=MIRROR))
    members["latents_01_01.npy"] = members["latents_01_01.npy"][:-1] + b"x"
    assert decode_sample(members, latents=True).latents is not None
    with pytest.raises(
        ValueError, match="^sample 'one': latents_01_01.npy is damaged, its checksum is another$"
    ):
        decode_sample(members, latents=True, variant=1)


@pytest.mark.parametrize(
    "entry",
    [[], {"autoencoder": 1}, {"shape": [1, 2, 3]}, {"shape": "abcd"}, {"size": [0, 4]}, {"size": 4},
     {"geometry": []}, {"geometry": 3}, {"geometry": [1]}, {"views": 0}, {"views": 5}],
)  # fmt: skip
def test_impossible_entries_are_damage(codec, entry):
    members = stored(codec, 2, 5, ClipVariants())
    meta = json.loads(members["meta.json"])
    meta["latents"] = meta["latents"] | entry if isinstance(entry, dict) else entry
    members["meta.json"] = json.dumps(meta).encode()
    with pytest.raises(ValueError, match=r"^sample 'one': meta.json: latents[^\n]*$"):
        decode_sample(members, latents=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": 0}, "--variants must be at least 1, is 0"),
        ({"variants": 2}, "--variants 2 would be equal: give --augmentation or --homography"),
        ({"augmentation": MIRROR}, "--augmentation needs --variants 2 or more"),
        ({"size": (0, 4)}, r"--size must be positive, is \[0, 4\]"),
        ({"frames": 8}, "8 frames, expected 4k"),
    ],
)
def test_options_that_change_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipVariants(**options)
