from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from datamodules.augmentation import GridAugmentation
from datamodules.collation import collate
from datamodules.homography import HomographyViews
from datamodules.references import ReferencePolicy
from datamodules.selection import ContextSelection, GridSelection
from datamodules.sources import DecodedViews, GridReader, Source, SourceDefaults
from scene4d.sample_format import decode_sample, encode_sample

GRID = GridSelection(views=2, view_strides=[2], frames=5, frame_strides=[2], random=False)
GRAY = GridAugmentation(flip=0, gain=0.5)


@pytest.fixture(scope="module")
def members(scene):
    return encode_sample(scene("one", views=4, frames=9))


def read(members, source, size=(16, 16), depth=True, seed=0):
    return GridReader(source, size, depth, cache_mb=8)(members, Random(seed))


def test_grid_shows_the_selected_views_and_frames(members):
    grid = read(members, Source("objects", [], GRID))
    stored = decode_sample(members)
    wanted = torch.from_numpy(stored.images[[0, 2]][:, ::2]).permute(0, 1, 4, 2, 3) / 255
    assert torch.equal(grid.images[0], wanted)
    assert torch.equal(grid.cameras.c2w[0], torch.from_numpy(stored.c2w[[0, 2]]))
    assert torch.allclose(grid.frame_times, torch.arange(5)[None] * 2 / 12)
    stored_depth = torch.tensor([1.0, 3])[:, None, None, None].expand(2, 3, 16, 16)  # stored frames 0, 4, 8
    assert torch.allclose(grid.depths[0][:, [0, 2, 4]], stored_depth, atol=1e-3)
    assert not grid.depths[0, :, [1, 3]].any()
    assert grid.reference[0, 0].all() and grid.reference[0, :, 0].all() and not grid.reference[0, 1, 1:].any()
    assert grid.source == ["objects"] and grid.keys == ["one"]
    assert read(members, Source("objects", [], GRID), depth=False).depths is None


def test_still_scene_repeats(scene):
    still = encode_sample(scene("still", frames=1))
    grid = read(still, Source("static", [], GRID, references=ReferencePolicy(both=0, none=1)))
    assert torch.equal(grid.images, grid.images[:, :, :1].expand(1, 2, 5, 3, 16, 16))
    assert torch.equal(grid.depths, grid.depths[:, :, :1].expand(1, 2, 5, 16, 16)) and grid.depths.min() > 0
    assert grid.frame_times.diff().min() > 0 and not grid.reference.any()


def test_context_reference_marks_the_inputs(members):
    selection = ContextSelection(inputs=2, targets=1, frames=2)
    grid = read(members, Source("objects", [], selection, references=ReferencePolicy(both=0, none=1)))
    assert grid.images.shape[1:3] == (3, 2)
    assert grid.reference[0].tolist() == [[True, True], [True, True], [False, False]]


def test_homography_source_makes_views_of_one_video(scene):
    video = encode_sample(scene("clip", "homography", views=1, frames=9, size=32))
    source = Source("homography", [], GRID, homography=HomographyViews(views=8))
    grid = read(video, source)
    assert grid.images.shape == (1, 2, 5, 3, 16, 16) and grid.cameras is None and grid.depths is None
    assert torch.equal(grid.images, read(video, source).images)
    assert not torch.equal(grid.images, read(video, source, seed=1).images)


def test_resized_on_the_way(members):
    grid = read(members, Source("objects", [], GRID), size=(8, 8))
    assert grid.images.shape[-2:] == grid.depths.shape[-2:] == (8, 8)
    assert torch.allclose(grid.cameras.intrinsics[0, 0], torch.tensor([[10.0, 0, 4], [0, 10, 4], [0, 0, 1]]))


def test_memory_of_decoded_views_is_bounded_and_right(members, scene):
    other = encode_sample(scene("two", views=4, frames=9))
    one_view = 9 * 16 * 16 * 3 + 3 * 16 * 16 * 4
    decoded = DecodedViews(3.5 * one_view / 2**20)
    for views in ([0, 1], [1, 2], [3, 0], [2]):
        for item in (members, other):
            direct, kept = decode_sample(item, views), decoded.decode(item, views, depth=True)
            for name in ("images", "c2w", "intrinsics", "depths"):
                assert np.array_equal(getattr(direct, name), getattr(kept, name)), name
            assert kept.key == direct.key and kept.views == views
            assert decoded.size <= decoded.limit
    assert decoded.size == 3 * one_view


def test_decoded_views_are_not_changed_by_augmentation(members):
    reader = GridReader(
        Source("o", [], GRID, augmentation=GridAugmentation(flip=1, gain=0.5)), (16, 16), True, 8
    )
    first = reader(members, Random(0))
    first.images.zero_()
    first.cameras.c2w.zero_()
    again = reader(members, Random(0))
    assert again.images.max() > 0.5 and again.cameras.c2w.abs().sum() > 0


def test_batch_mixes_scenes_with_and_without_cameras_depth_and_text(members, scene):
    clip = encode_sample(scene("clip", "homography", views=1, frames=9, size=32))
    captioned = scene("captioned", frames=9)
    captioned.text = np.ones((3, 6), np.float32)
    scenes = [
        read(members, Source("objects", [], GRID)),
        read(clip, Source("homography", [], GRID, homography=HomographyViews())),
        read(encode_sample(captioned), Source("physics", [], GRID)),
    ]
    batch = collate(scenes)
    assert batch.images.shape == (3, 2, 5, 3, 16, 16)
    assert batch.cameras.c2w.shape == (3, 2, 4, 4) and batch.cameras.intrinsics.shape == (3, 2, 3, 3)
    unknown = torch.isnan(batch.cameras.c2w).flatten(1).all(1)
    assert unknown.tolist() == [False, True, False] and torch.isfinite(batch.cameras.c2w[[0, 2]]).all()
    assert not batch.depths[1].any() and batch.depths[0].any()
    assert batch.text.shape == (3, 3, 6) and batch.text.sum((1, 2)).tolist() == [0, 0, 18]
    assert batch.source == ["objects", "homography", "physics"] and batch.keys == ["one", "clip", "captioned"]
    only_videos = collate([scenes[1], scenes[1]])
    assert only_videos.cameras is None and only_videos.depths is None and only_videos.text is None


def test_a_source_s_own_settings_win_over_the_defaults():
    defaults = SourceDefaults("shards", GRID, ReferencePolicy(none=1), GRAY)
    own = Source("o", ["a.tar"], GridSelection(frames=5), references=ReferencePolicy(), augmentation=None)
    assert own.filled(defaults) == replace(own, urls=["shards/a.tar"])
    left_out = Source("o", ["a.tar"]).filled(defaults)
    assert left_out == Source(
        "o", ["shards/a.tar"], GRID, references=ReferencePolicy(none=1), augmentation=GRAY
    )
    assert left_out.filled(SourceDefaults()) == left_out
    none = Source("o", ["a.tar"], GRID).filled(SourceDefaults())
    assert none == Source("o", ["a.tar"], GRID, references=ReferencePolicy(), augmentation=None)


@pytest.mark.parametrize("url, root, found", [
    ("a-*.tar", "data/", "data/a-*.tar"), ("b/{0..9}.tar", "s3://bucket", "s3://bucket/b/{0..9}.tar"),
    ("/a.tar", "data", "/a.tar"), ("pipe:cat a.tar", "data", "pipe:cat a.tar"),
    ("https://host/a.tar", "data", "https://host/a.tar"), ("a.tar", "", "a.tar"),
])  # fmt: skip
def test_relative_urls_lie_below_the_root(url, root, found):
    assert Source("o", [url], GRID).filled(SourceDefaults(root)).urls == [found]


def test_defaults_change_no_random_draw(members):
    whole = Source("o", [], GRID, references=ReferencePolicy(1, 1, 1, 1), augmentation=GRAY)
    parts = Source("o", []).filled(SourceDefaults("", GRID, ReferencePolicy(1, 1, 1, 1), GRAY))
    off = [Source("o", [], GRID), Source("o", [], GRID, augmentation=None)]
    for pair in ([whole, parts], off):
        grids, rngs = [], [Random(3), Random(3)]
        for source, rng in zip(pair, rngs):
            grids.append(GridReader(source, (16, 16), True, 8)(members, rng))
        assert rngs[0].getstate() == rngs[1].getstate()
        assert torch.equal(grids[0].images, grids[1].images)
        assert torch.equal(grids[0].reference, grids[1].reference)


def test_a_source_without_a_selection_is_named():
    with pytest.raises(ValueError, match="source 'clips' has no selection"):
        Source("clips", []).filled(SourceDefaults())
    with pytest.raises(ValueError, match="source 'clips' has no selection"):
        GridReader(Source("clips", []), (16, 16), True, 0)
