"""RealEstate10K's text files and frames, written as its page documents them."""

import json

import numpy as np
import pytest
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image

from preparation.readers.realestate import RealEstate, match_times

WINDOW = ("--size", "96", "--views", "4", "--view-stride", "2", "--windows", "2")


def write_clip(root, name="00a1b2", count=9, missing=()):
    """w2c = inverse of c2w, intrinsics divided by width and height."""
    (root / name).mkdir(parents=True)
    lines = ["https://www.youtube.com/watch?v=x"]
    for k, pose in enumerate(arc(count)):
        time, w2c = 1000 * k + 66, np.linalg.inv(pose)[:3].flatten()
        camera = [FOCAL[0] / SIZE[1], FOCAL[1] / SIZE[0], CENTRE[0] / SIZE[1], CENTRE[1] / SIZE[0], 0, 0]
        lines.append(" ".join([str(time), *(f"{x:.9f}" for x in (*camera, *w2c))]))
        if k not in missing:
            Image.fromarray(draw(pose)).save(root / name / f"{time}.png")
    (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_points_land_where_they_are_seen(tmp_path, record_property):
    write_clip(tmp_path / "raw")
    samples = read(RealEstate, tmp_path / "raw", tmp_path / "out", *WINDOW)
    assert [sample.key for sample in samples] == [f"realestate10k-00a1b2-{k:05d}" for k in (0, 2)]
    assert samples[0].images.shape == (4, 1, 96, 96, 3) and samples[0].source == "realestate10k"
    prove(samples, tmp_path / "out", record_property)


def test_bad_clips_are_named_and_the_others_kept(tmp_path):
    root = tmp_path / "raw"
    write_clip(root, "good")
    write_clip(root, "short", count=3)
    write_clip(root, "unseen", missing=range(9))
    write_clip(root, "letters")
    (root / "letters.txt").write_text("url\n66 0.5 x\n")
    write_clip(root, "few")
    (root / "few.txt").write_text("url\n66 0.5 0.5\n")
    write_clip(root, "broken")
    (root / "broken" / "3066.png").write_bytes(b"no picture")
    samples = read(RealEstate, root, tmp_path / "out", *WINDOW, "--windows", "1", "--shard-size", "2")
    assert [sample.group for sample in samples] == ["good"]
    report = json.loads((tmp_path / "out/reports/realestate10k-train-part-0-of-1.json").read_text())
    skipped = report["skipped"]
    assert "has 3 views, expected at least 7" in skipped["short"]
    assert "no frame named by a timestamp" in skipped["unseen"]
    assert "letters.txt line 2: expected numbers" in skipped["letters"]
    assert "few.txt line 2: has 3 values, expected 19" in skipped["few"]
    assert "3066.png: expected a picture" in skipped["broken"]
    assert report["scenes"] == 6 and report["samples"] == 1 and len(skipped) == 5


def test_pose_with_nan_is_skipped(tmp_path):
    write_clip(tmp_path / "raw")
    path = tmp_path / "raw/00a1b2.txt"
    lines = path.read_text().splitlines()
    words = lines[1].split()
    lines[1] = " ".join([*words[:10], "nan", *words[11:]])
    path.write_text("\n".join(lines))
    with pytest.raises(SystemExit, match="none of 1 scenes could be used.*expected a rotation"):
        read(RealEstate, tmp_path / "raw", tmp_path / "out", *WINDOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:3], "", "   ", *lines[3:], "", ""],
        lambda lines: lines[1:],  # no address
        lambda lines: ["", *lines],
        lambda lines: ["\ufeff" + lines[1], *lines[2:]],
        lambda lines: [line.replace(" ", "\t") + "\r" for line in lines],
    ],
    ids=["blank-lines", "no-address", "blank-first", "byte-order-mark", "tabs-and-carriage-returns"],
)
def test_files_that_people_have_lose_no_frame(tmp_path, record_property, change):
    write_clip(tmp_path / "raw")
    path = tmp_path / "raw/00a1b2.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    (sample,) = read(RealEstate, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "9")
    np.testing.assert_allclose(sample.c2w, np.stack(arc(9)), atol=1e-5)
    prove([sample], tmp_path / "out", record_property)


@pytest.mark.parametrize("spacing", [1000, 33_367])
def test_names_of_frames_may_be_rounded(tmp_path, record_property, spacing):
    """1 ms off at 30 frames per second; at 1000 frames per second less than half a frame."""
    write_clip(tmp_path / "raw")
    folder, text = tmp_path / "raw/00a1b2", (tmp_path / "raw/00a1b2.txt").read_text()
    for k in range(9):
        text = text.replace(f"\n{1000 * k + 66} ", f"\n{spacing * (k + 1)} ")
        off = min(1000, spacing // 2 - 10) * (-1) ** k
        (folder / f"{1000 * k + 66}.png").rename(folder / f"new{spacing * (k + 1) + off}.png")
    for path in folder.glob("new*"):
        path.rename(folder / path.name.removeprefix("new"))
    (folder / f"._{spacing}.png").write_bytes(b"macOS")
    (tmp_path / "raw/00a1b2.txt").write_text(text)
    (sample,) = read(RealEstate, tmp_path / "raw", tmp_path / "out", "--size", "96", "--views", "9")
    prove([sample], tmp_path / "out", record_property)


def test_frames_half_a_spacing_away_belong_to_nobody():
    pictures = {number: number for number in (0, 100, 249, 350, 2000)}
    assert match_times([0, 100, 200, 300, 400], pictures) == {0: 0, 100: 100, 200: 249}
    assert match_times([5000], {3000: "a", 2000: "b"}) == {5000: "a"} and match_times([5000], {}) == {}


def test_turned_and_cut_frames_and_double_lines_are_named(tmp_path):
    root = tmp_path / "raw"
    for name in ("turned", "cut", "double"):
        write_clip(root, name)
    for path in (root / "turned").glob("*.png"):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    for path in (root / "cut").glob("*.png"):
        Image.open(path).crop((0, 0, 120, 120)).save(path)
    lines = (root / "double.txt").read_text().splitlines()
    (root / "double.txt").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(SystemExit) as error:
        read(RealEstate, root, tmp_path / "out", *WINDOW)
    for reason in ("as if one of them were turned", "is 120x120, 1 times as wide", "66 appears twice"):
        assert reason in str(error.value)
