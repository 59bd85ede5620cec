"""Damage of every kind: none ends training, none changes the shares, none goes unnamed."""

import io
import json
import tarfile
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
import webdataset as wds

from datamodules.held_out import HeldOutBatches, HeldOutLoader
from datamodules.loader import ResumableLoader
from datamodules.mixture import Ingredient, MixedBatches
from datamodules.selection import GridSelection
from datamodules.sources import GridReader, Source
from scene4d.sample_format import encode_sample
from scene4d.sample_pictures import encode_video

DRAWS = 10


def at(data, name):
    """Where the header of the second sample's member lies."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmember(f"objects_0_1.{name}").offset


def overwritten(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def middle_of(name):
    """Offset of the middle of a member's content."""

    def place(data):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            member = tar.getmember(f"objects_0_1.{name}")
        return member.offset_data + member.size // 2

    return place


def with_wrong_size(data):
    """A header that swallows the next ones, its own checksum correct."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.getmember("objects_0_1.view_00.mp4")
    place, member.size = member.offset, 10 * member.size
    return overwritten(data, place, member.tobuf(tarfile.USTAR_FORMAT))


def zipped(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("objects_0_0.meta.json", data[512:1024])
    return buffer.getvalue()


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def flipped(data, place):
    return overwritten(data, place, bytes([data[place] ^ 4]))


ARCHIVES = {
    "missing": None,
    "empty file": lambda data: b"",
    "garbage": lambda data: np.random.default_rng(0).bytes(len(data)),
    "an error page": lambda data: b"<html><body>404 not found</body></html>" * 40,
    "a zip file": zipped,
    "gzip magic, then garbage": lambda data: b"\x1f\x8b\x08" + b"x" * 4000,
    "cut inside a video": lambda data: data[: middle_of("view_02.mp4")(data)],
    "cut inside a header": lambda data: data[: at(data, "view_02.mp4") + 100],
    "cut at a header": lambda data: data[: at(data, "view_02.mp4")],
    "its beginning is lost": lambda data: data[middle_of("view_01.mp4")(data) :],
    "first header damaged": lambda data: overwritten(data, 20, b"zz"),
    "later header damaged": lambda data: overwritten(data, at(data, "view_01.mp4") + 20, b"zz"),
    "header overwritten with zeros": lambda data: overwritten(data, at(data, "view_01.mp4"), bytes(512)),
    "wrong size in a header": with_wrong_size,
    "no files": lambda data: tar_of([]),
    "files of something else": lambda data: tar_of([("README", b"hello"), ("a.cls", b"3")]),
    "the same member twice": lambda data: tar_of([("a.meta.json", b"{}"), ("a.meta.json", b"{}")]),
    "zeros in a video": lambda data: overwritten(data, middle_of("view_00.mp4")(data), bytes(100)),
    "one bit of a video": lambda data: flipped(data, middle_of("view_03.mp4")(data)),
    "one bit of a depth map": lambda data: flipped(data, middle_of("depth_01.png")(data)),
    "one bit of the text": lambda data: flipped(data, middle_of("text.npy")(data)),
}


def changed_meta(**changes):
    def change(members):
        meta = json.loads(members["meta.json"])
        return {**members, "meta.json": json.dumps({**meta, **changes}).encode()}

    return change


def changed_camera(name, value, place=(0, 0)):
    def change(members):
        meta = json.loads(members["meta.json"])
        meta[name][1][place[0]][place[1]] = value
        return {**members, "meta.json": json.dumps(meta).encode()}

    return change


def scaled_rotations(factor):
    def change(members):
        meta = json.loads(members["meta.json"])
        c2w = np.array(meta["c2w"])
        c2w[:, :3, :3] *= factor
        return {**members, "meta.json": json.dumps({**meta, "c2w": c2w.tolist()}).encode()}

    return change


def without(name):
    return lambda members: {k: v for k, v in members.items() if k != name}


def without_entry(name):
    def change(members):
        meta = json.loads(members["meta.json"])
        del meta[name]
        return {**members, "meta.json": json.dumps(meta).encode()}

    return change


def replaced(name, content):
    """As in a shard whose writer stored no checksums."""
    return lambda members: {**changed_meta(crc32={})(members), name: content}


def video(frames, size):
    return encode_video(np.zeros((frames, size, size, 3), np.uint8), 12)


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


SAMPLES = {
    "a view is missing": (without("view_02.mp4"), "has none of view_02.mp4, view_02.webp, view_02.avif"),
    "a video cannot be decoded": (replaced("view_01.mp4", b"not an mp4"), "view_01.mp4 cannot be decoded"),
    "a video is empty": (replaced("view_01.mp4", b""), "view_01.mp4 cannot be decoded"),
    "a video is too short": (replaced("view_01.mp4", video(3, 16)), "meta.json says"),
    "a video has another size": (replaced("view_01.mp4", video(5, 32)), "meta.json says"),
    "a camera is NaN": (changed_camera("c2w", float("nan")), "camera is not finite"),
    "intrinsics are infinite": (changed_camera("intrinsics", float("inf")), "camera is not finite"),
    "a camera is missing": (
        changed_meta(c2w=[np.eye(4).tolist()] * 3),
        "c2w must be (4, 4, 4), is (3, 4, 4)",
    ),
    "fewer frames than asked for": (changed_meta(frames=3, depth_frames=[0]), "has 3 frames"),
    "no views": (changed_meta(views=0), "views must be a positive integer, is 0"),
    "a depth map is missing": (without("depth_03.png"), "no depth_03.png"),
    "a depth map is garbage": (replaced("depth_03.png", b"x"), "depth_03.png cannot be decoded"),
    "too many depth frames": (changed_meta(depth_frames=[0, 1, 2, 3, 4]), "meta.json says (80, 16)"),
    "no description": (without("meta.json"), "no meta.json"),
    "the description is not JSON": (replaced("meta.json", b"{"), "not JSON"),
    "the description is a list": (replaced("meta.json", b"[]"), "version 'list'"),
    "a newer format": (changed_meta(version=99), "version 99"),
    "an entry is missing": (without_entry("frames"), "frames"),
    "text would be unpickled": (replaced("text.npy", pickled()), "allow_pickle"),
    "text is NaN": (
        replaced("text.npy", saved(np.full((2, 3), np.nan, np.float16))),
        "text.npy must be finite",
    ),
    "text has one axis": (replaced("text.npy", saved(np.ones(3, np.float16))), "text.npy must be finite"),
    "fps is 0": (changed_meta(fps=0), "fps must be a positive number, is 0"),
    "fps is negative": (changed_meta(fps=-12), "fps must be a positive number, is -12"),
    "fps is text": (changed_meta(fps="12"), "fps must be a positive number, is '12'"),
    "fps is NaN": (changed_meta(fps=float("nan")), "fps must be a positive number, is nan"),
    "fps is a truth value": (changed_meta(fps=True), "fps must be a positive number, is True"),
    "no fps": (changed_meta(fps=None), "fps must be a positive number, is None"),
    "cameras are scaled by 7": (scaled_rotations(7), "rotations are not orthonormal, off by 48"),
    "cameras are mirrored": (scaled_rotations(-1), "a camera rotation is a reflection"),
    "a camera's last row": (changed_camera("c2w", 2, (3, 0)), "last row of a camera is not 0 0 0 1"),
    "a focal length is 0": (changed_camera("intrinsics", 0), "focal lengths"),
    "a focal length is negative": (changed_camera("intrinsics", -20), "focal lengths"),
    "the other focal length is 0": (changed_camera("intrinsics", 0, (1, 1)), "focal lengths"),
    "intrinsics are normalised by a last row": (changed_camera("intrinsics", 2, (2, 2)), "no pinhole camera"),
    "a camera is text": (changed_camera("c2w", "x"), "c2w must be numbers (4, 4, 4)"),
    "depth_scale is negative": (changed_meta(depth_scale=-1), "depth_scale must be a positive number, is -1"),
    "depth_scale is NaN": (changed_meta(depth_scale=float("nan")), "depth_scale must be a positive number"),
    "depth_scale is 0": (changed_meta(depth_scale=0), "depth_scale must be a positive number, is 0"),
    "depth_scale is huge": (
        changed_meta(depth_scale=1e38),
        "depth_scale must be a positive number, is 1e+38",
    ),
    "a depth frame behind the end": (
        changed_meta(depth_frames=[0, 5]),
        "different integers below 5, is [0, 5]",
    ),
    "a depth frame twice": (changed_meta(depth_frames=[0, 0]), "different integers below 5, is [0, 0]"),
    "a depth frame is text": (changed_meta(depth_frames=["0", "4"]), "different integers below 5"),
    "views is a fraction": (changed_meta(views=2.5), "views must be a positive integer, is 2.5"),
    "frames is text": (changed_meta(frames="5"), "frames must be a positive integer, is '5'"),
    "a height below 1": (changed_meta(height=-16), "height must be a positive integer, is -16"),
    "the caption is a number": (changed_meta(caption=3), "caption must be text, is 3"),
}


def captioned(scene, key, source):
    made = scene(key, source)
    made.text = np.ones((2, 3), np.float32)
    return made


@pytest.fixture(scope="module")
def encoded(scene):
    """Two shards of three samples of two sources; encoded once, since x264 may give other bytes the next time."""
    return {
        (source, shard): [
            encode_sample(captioned(scene, f"{source}_{shard}_{index}", source)) for index in range(3)
        ]
        for source in ("objects", "physics")
        for shard in range(2)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoded):
    """A whole source of two shards, and another that no test damages."""
    folder = tmp_path_factory.mktemp("faults")
    for (source, shard), samples in encoded.items():
        write(folder / f"{source}-{shard}.tar", samples)
    return folder


def write(path, samples):
    with wds.TarWriter(str(path)) as tar:
        for members in samples:
            tar.write(members)


def loader(urls):
    """One sample of each source a batch, all that is stored of it."""
    selection = GridSelection(views=4, view_strides=[1], frames=5, reverse_views=0)
    return ResumableLoader(
        MixedBatches(
            [
                Ingredient(name, paths, 1, GridReader(Source(name, [], selection), (16, 16), True, 0))
                for name, paths in urls.items()
            ],
            batch_size=2,
            seed=0,
        ),
        num_workers=0,
    )


def urls_of(folder, first):
    return {
        "objects": [str(first), str(folder / "objects-1.tar")],
        "physics": [str(folder / f"physics-{shard}.tar") for shard in range(2)],
    }


def drawn(batches):
    """Tensors by key; the shares are checked on the way."""
    found = {}
    for batch in islice(batches, DRAWS):
        assert sorted(batch.source) == ["objects", "physics"]
        for index, key in enumerate(batch.keys):
            found[key] = {
                "images": batch.images[index],
                "depths": batch.depths[index],
                "c2w": batch.cameras.c2w[index],
                "text": batch.text[index],
            }
    return found


@pytest.fixture(scope="module")
def whole(folder):
    return drawn(loader(urls_of(folder, folder / "objects-0.tar")))


def check(folder, shard, whole, caplog, most=1):
    """Returns the line that names the damage; `most` samples may be hit."""
    batches = loader(urls_of(folder, shard))
    found = drawn(batches)
    for key, tensors in found.items():
        assert [name for name in tensors if not torch.equal(tensors[name], whole[key][name])] == [], key
    assert {f"objects_1_{index}" for index in range(3)} <= set(found)
    assert batches.unreadable["objects"] >= 1 and batches.unreadable["physics"] == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert 1 <= len(warnings) <= most
    for line in warnings:
        assert str(shard) in line and "\n" not in line and line.startswith("source 'objects': skipped s")
    return warnings[0]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_archive(folder, whole, tmp_path, kind, caplog):
    shard = tmp_path / "damaged.tar"
    if ARCHIVES[kind] is not None:
        shard.write_bytes(ARCHIVES[kind]((folder / "objects-0.tar").read_bytes()))
    check(folder, shard, whole, caplog, most=2)  # the bytes decide whether a neighbour is hit, too


def test_a_folder_in_place_of_a_shard(folder, whole, tmp_path, caplog):
    assert "directory" in check(folder, tmp_path, whole, caplog)


@pytest.mark.parametrize("kind", SAMPLES)
def test_damaged_sample(folder, whole, encoded, tmp_path, kind, caplog):
    """The second sample of three; the others are used."""
    change, message = SAMPLES[kind]
    first, second, third = encoded["objects", 0]
    write(tmp_path / "damaged.tar", [first, change(second), third])
    assert message in check(folder, tmp_path / "damaged.tar", whole, caplog)


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind not in ("no description",)])
def test_a_damaged_held_out_sample_is_named(encoded, tmp_path, kind):
    """Scores over the readable rest do not compare: validation ends with one line that names the sample."""
    change, message = SAMPLES[kind]
    first, second, third = encoded["objects", 0]
    write(tmp_path / "damaged.tar", [first, change(second), third])
    selection = GridSelection(views=4, view_strides=[1], frames=5, random=False)
    read = GridReader(Source("objects", [], selection), (16, 16), True, 0)
    batches = HeldOutBatches("objects", [str(tmp_path / "damaged.tar")], read, batch_size=1, seed=0)
    with pytest.raises(ValueError) as caught:
        list(HeldOutLoader(batches, 0))
    line = str(caught.value)
    assert "'objects_0_1'" in line and message in line and "\n" not in line
