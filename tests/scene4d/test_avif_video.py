"""Videos as AVIF: close to what went in, equal bytes for equal frames, and damage named in one line."""

import numpy as np
import pytest

from scene4d.avif_video import decode_avif, encode_avif
from scene4d.sample_format import SceneSample, decode_sample, encode_sample


def smooth(t=6, h=24, w=40):
    """A moving gradient of all colours."""
    y, x = np.mgrid[:h, :w]
    waves = [
        np.sin((x * a + y * b) / 9 + k * c)
        for k in range(t)
        for a, b, c in ((1, 2, 0.3), (2, 1, 0.5), (1, 1, 0.1))
    ]
    return (np.stack(waves).reshape(t, 3, h, w).transpose(0, 2, 3, 1) * 100 + 128).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("t", [1, 2, 29])
def test_frames_come_back_in_order_and_close(t):
    frames = smooth(t)
    decoded = decode_avif(encode_avif(frames, 12.0, 75))
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8
    assert min(psnr(a, b) for a, b in zip(decoded, frames)) > 36


def test_more_quality_is_closer_and_equal_frames_are_equal_bytes():
    frames = smooth()
    low, high = (encode_avif(frames, 12.0, quality) for quality in (50, 90))
    assert len(low) < len(high) and encode_avif(frames, 12.0, 50) == low
    assert psnr(decode_avif(low), frames) < psnr(decode_avif(high), frames)


@pytest.mark.parametrize("t", [1, 5])
def test_a_sample_of_avif_is_a_sample(t):
    images = np.stack([smooth(t), smooth(t)[:, ::-1]])
    members = encode_sample(SceneSample("a", "objects", images, 12.0), avif=90)
    assert {"view_00.avif", "view_01.avif"} <= set(members) and not any(
        ".mp4" in n or ".webp" in n for n in members
    )
    sample = decode_sample(members, views=[1])
    assert sample.images.shape == images[1:].shape and psnr(sample.images, images[1:]) > 36


def test_damage_is_one_line():
    members = encode_sample(SceneSample("a", "objects", smooth()[None], 12.0), avif=75)
    half = {**members, "view_00.avif": members["view_00.avif"][:200]}
    with pytest.raises(ValueError, match="'a': view_00.avif is damaged"):
        decode_sample(half)
    with pytest.raises(OSError):
        decode_avif(b"no picture")


def test_a_pillow_without_avif_is_named(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(ValueError, match="AVIF needs Pillow 11.3"):
        encode_avif(smooth(), 12.0, 75)
