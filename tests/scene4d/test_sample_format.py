"""Latents in the shard format: added to the byte, decoded instead of pictures, damage named in one line."""

import io
import json
import zlib

import numpy as np
import pytest

from scene4d.sample_changes import add_latents, add_text
from scene4d.sample_format import SceneSample, decode_sample, encode_sample

LATENTS = np.random.default_rng(0).normal(size=(3, 4, 2, 2, 3)).astype(np.float32)  # v z n y x


@pytest.fixture
def members():
    images = np.random.default_rng(1).integers(0, 256, (3, 5, 16, 24, 3), dtype=np.uint8)
    return encode_sample(SceneSample("a", "objects", images, 12.0, text=np.ones((1, 4), np.float32)))


def saved(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_latents_come_back_beside_everything_else(members):
    added = add_latents(members, LATENTS, "0123456789abcdef")
    assert all(added[name] == data for name, data in members.items() if name != "meta.json")
    sample = decode_sample(added, [2, 0], latents=True)
    assert np.array_equal(sample.latents, LATENTS[[2, 0]].astype(np.float16))
    assert sample.autoencoder == "0123456789abcdef" and sample.views == [2, 0]
    assert sample.images.shape == (2, 5, 16, 24, 3) and not any(sample.images.strides)
    pictures = decode_sample(added)
    assert pictures.latents is None and np.array_equal(pictures.images, decode_sample(members).images)


def test_pictures_are_not_decoded_with_latents(members):
    added = add_latents(members, LATENTS, "x")
    added["view_00.mp4"] = b"garbage"
    assert decode_sample(added, latents=True).latents.shape == LATENTS.shape
    with pytest.raises(ValueError, match=r"'a': view_00.mp4 is damaged"):
        decode_sample(added)


def test_latents_are_replaced_whole(members):
    again = add_latents(add_latents(members, LATENTS, "first"), LATENTS[:, :2, :1], "second")
    sample = decode_sample(again, latents=True)
    assert sample.autoencoder == "second" and sample.latents.shape == (3, 2, 1, 2, 3)
    assert len(json.loads(again["meta.json"])["crc32"]) == 7


def test_what_cannot_be_stored_is_refused(members):
    with pytest.raises(ValueError, match=r"'a' has 3 views.*\(2, 4, 2, 2, 3\)"):
        add_latents(members, LATENTS[:2], "x")
    for value in (np.nan, np.inf, 1e6):
        with pytest.raises(ValueError, match="'a': a latent is not finite in float16"):
            add_latents(members, np.where(LATENTS > 1, value, LATENTS), "x")
    without_pictures = decode_sample(add_latents(members, LATENTS, "x"), latents=True)
    with pytest.raises(ValueError, match="a: was decoded with latents"):
        encode_sample(without_pictures)


ONE = LATENTS[1].astype(np.float16)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    "data, message",
    [
        (None, "has no latents_01.npy"),
        (b"", "latents_01.npy cannot be decoded"),
        (b"\x93NUMPY garbage", "latents_01.npy cannot be decoded"),
        (saved(ONE)[:-1], "latents_01.npy cannot be decoded"),
        (
            saved(ONE[:, :1]),
            r"latents_01.npy is float16 \(4, 1, 2, 3\), meta.json says float16 \(4, 2, 2, 3\)",
        ),
        (saved(ONE.astype(np.float32)), "latents_01.npy is float32"),
        (
            saved(np.where(ONE > 0, np.float16(np.nan), ONE)),
            "latents_01.npy holds a value that is not finite",
        ),
        (saved(np.array([{}], object)), "latents_01.npy cannot be decoded"),
    ],
    ids=["missing", "empty", "garbage", "cut", "shape", "type", "nan", "pickle"],
)
def test_damage_names_sample_and_member(members, data, message, checksums):
    added = add_latents(members, LATENTS, "x")
    meta = json.loads(added["meta.json"])
    added.pop("latents_01.npy")
    if data is not None:
        added["latents_01.npy"] = data
        message = "latents_01.npy is damaged" if checksums else message
        meta["crc32"]["latents_01.npy"] = meta["crc32"]["latents_01.npy"] if checksums else zlib.crc32(data)
    added["meta.json"] = json.dumps(meta).encode()
    with pytest.raises(ValueError, match=rf"^sample 'a'.*{message}[^\n]*$"):
        decode_sample(added, latents=True)
    assert decode_sample(added, [0, 2], latents=True).latents.shape[0] == 2


def test_a_sample_without_latents_says_so(members):
    with pytest.raises(ValueError, match="'a' has no latents; preparation.latents adds them"):
        decode_sample(members, latents=True)


def test_names_of_views_follow_the_views(members):
    """Without names, the bytes are those of before names existed."""
    assert b"view_names" not in members["meta.json"] and decode_sample(members).view_names == []
    images = np.zeros((3, 5, 16, 24, 3), np.uint8)
    named = encode_sample(SceneSample("a", "rig", images, 12.0, view_names=["cam00", "cam2", "cam10"]))
    assert decode_sample(named, [2, 0]).view_names == ["cam10", "cam00"]
    meta = json.loads(named["meta.json"])
    meta["view_names"].pop()
    with pytest.raises(ValueError, match="'a' has 3 views, but 2 view_names"):
        decode_sample({**named, "meta.json": json.dumps(meta).encode()})
    with pytest.raises(ValueError, match="a: 3 views, but view_names"):
        encode_sample(SceneSample("a", "rig", images, 12.0, view_names=["x"]))


def posed(**changes) -> SceneSample:
    images, poses = np.zeros((2, 1, 16, 16, 3), np.uint8), np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    intrinsics = np.tile(np.array([[20, 0, 8], [0, 20, 8], [0, 0, 1]], np.float32), (2, 1, 1))
    settings = {"c2w": poses, "intrinsics": intrinsics, "depths": np.ones((2, 1, 16, 16), np.float32)}
    return SceneSample("a", "objects", images, **{"fps": 12.0, **settings, "depth_frames": [0], **changes})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("fps", 0.0, "fps must be a positive number, is 0.0"),
        ("fps", float("inf"), "fps must be a positive number, is inf"),
        ("c2w", 7 * posed().c2w, "rotations are not orthonormal"),
        ("intrinsics", -posed().intrinsics, "focal lengths"),
        (
            "intrinsics",
            1e-9 * posed().intrinsics + np.diag([0, 0, 1.0]),
            "no pinhole camera",
        ),  # 0 in the file
        ("caption", None, "caption must be text, is None"),
        ("depths", None, "depth_scale must be a positive number, is 0.0"),  # with depth_frames [0]
        ("depth_frames", [0, 0], "depths must be"),
        ("depths", np.full((2, 1, 16, 16), -1, np.float32), "depths must be finite and at least 0"),
        ("depths", np.full((2, 1, 16, 16), np.nan, np.float32), "depths must be finite and at least 0"),
    ],
)
def test_what_would_be_damage_is_never_written(name, value, message):
    encode_sample(posed())
    with pytest.raises(ValueError, match=f"^(a|sample 'a'): .*{message}"):
        encode_sample(posed(**{name: value}))


def test_a_caption_embedding_is_put_in_its_place(members):
    text = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    sample = decode_sample(added := add_text(members, text, "umt5"))
    assert np.array_equal(sample.text, text.astype(np.float16).astype(np.float32))
    assert sample.text_encoder == "umt5" and decode_sample(members).text_encoder == ""
    changed = {"meta.json", "text.npy"}
    assert all(added[name] == data for name, data in members.items() if name not in changed)
    without = decode_sample(nothing := add_text(added, None, "umt5"))
    assert without.text is None and without.text_encoder == "" and "text.npy" not in nothing
    assert json.loads(nothing["meta.json"]).keys() == json.loads(members["meta.json"]).keys()


@pytest.mark.parametrize("text", [np.ones(4), np.full((1, 4), np.nan), np.full((1, 4), 1e6)])
def test_impossible_caption_embeddings_are_never_written(members, text):
    with pytest.raises(ValueError, match=r"^sample 'a': a caption embedding [^\n]+$"):
        add_text(members, text, "umt5")


@pytest.mark.parametrize("entry", [None, "umt5", {}, {"encoder": 3}])
def test_impossible_names_of_encoders_are_damage(members, entry):
    meta = json.loads(members["meta.json"]) | {"text": entry}
    with pytest.raises(ValueError, match=r"^sample 'a': meta.json: text must hold the fingerprint[^\n]+$"):
        decode_sample(members | {"meta.json": json.dumps(meta).encode()})


def test_an_encoded_sample_keeps_the_name_of_its_text_encoder(members):
    sample = decode_sample(add_text(members, np.ones((2, 4)), "umt5"))
    assert decode_sample(encode_sample(sample)).text_encoder == "umt5"
    assert b'"text"' not in members["meta.json"]
