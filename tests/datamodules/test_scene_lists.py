"""Many scenes in one start: what CSV files and folders say, and what is wrong with them before anything is made."""

import numpy as np
import pytest

from datamodules import ReferenceVideos
from datamodules.reference_grid import ReferenceScene
from datamodules.scene_lists import list_scenes
from scene4d.sample_pictures import encode_video


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clips").mkdir()
    frames = np.full((9, 16, 16, 3), 90, np.uint8)
    frames[:, :4] = np.arange(9, dtype=np.uint8)[:, None, None, None] * 20
    (tmp_path / "clips" / "a.mp4").write_bytes(encode_video(frames, 12))
    return tmp_path / "clips" / "a.mp4"


def table(folder, text, encoding="utf-8"):
    (folder / "pairs.csv").write_bytes(text.encode(encoding))
    return folder / "pairs.csv"


def test_a_table(tmp_path, clip):
    """Any columns in any order, cells that are empty, texts with commas and lines, paths beside the table."""
    text = (
        "prompt, fixed_view,key,freeze_time\r\n"
        '"a cat, which\nruns",clips/a.mp4,cat,\r\n'
        ",,,\r\n"
        f"a dog,,,{clip}\r\n"
        "a sea\r\n"
    )
    assert list_scenes(table(tmp_path, text, "utf-8-sig")) == [
        ReferenceScene("cat", str(clip), None, "a cat, which\nruns"),
        ReferenceScene("scene_0004", None, str(clip), "a dog"),
        ReferenceScene("scene_0005", None, None, "a sea"),
    ]


def test_a_folder(tmp_path, clip):
    scenes = tmp_path / "scenes"
    for name in ("s10", "s2", ".hidden"):
        (scenes / name).mkdir(parents=True)
    clip.rename(scenes / "s2" / "fixed_view.mp4")
    (scenes / "s2" / "notes.txt").write_text("mine")
    (scenes / "s10" / "prompt.txt").write_text("a cat\nthat runs \n")
    (scenes / "readme.md").write_text("about")
    assert list_scenes(scenes) == [
        ReferenceScene("s2", str(scenes / "s2" / "fixed_view.mp4")),
        ReferenceScene("s10", prompt="a cat that runs"),
    ]


@pytest.mark.parametrize("text, message", [
    ("", "pairs.csv' has columns of no name; expected some of key, fixed_view, freeze_time, prompt"),
    ("key,video\na,b\n", "has columns key, video; expected some of"),
    ("key;prompt\na;b\n", "has columns key;prompt; expected some of .* with commas between them"),
    ("key,key\na,b\n", "has columns key, key; .* each once"),
    ("key,prompt\n,\n", "pairs.csv' holds no scene below its header"),
    ("key,prompt\na,x\nb,y\na,z\n", "pairs.csv' row 4: key 'a' is that of .*pairs.csv' row 2, too"),
    ("key,fixed_view\n" + 5 * "{},clips/a.mp4\n" + "g,clips/b.mp4\n",
     "pairs.csv' row 7: fixed_view '.*clips/b.mp4' does not exist"),
    ("key,freeze_time\na,clips\n", "row 2: freeze_time '.*clips' does not exist"),
    ("key,prompt\na,a cat, a dog\n", "row 2 has 3 cells for 2 columns; quote texts with commas"),
    ("key,prompt\na,\n", "row 2: nothing is given: expected fixed_view, freeze_time or, without both, a prompt"),
    ('key,prompt\na,"x" y\n', "pairs.csv' is no CSV file in UTF-8"),
])  # fmt: skip
def test_wrong_tables_are_one_line(tmp_path, clip, text, message):
    videos = ReferenceVideos(scenes=str(table(tmp_path, text.format(*"abcde") if "{}" in text else text)))
    with pytest.raises(ValueError, match=message) as error:
        videos.setup("predict")
    assert "\n" not in str(error.value)


def test_another_encoding_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="pairs.csv' is no CSV file in UTF-8"):
        list_scenes(table(tmp_path, "key,prompt\na,größer\n", "latin-1"))


def test_wrong_folders_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="absent' does not exist; expected a CSV file or a folder"):
        list_scenes(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no scene; expected one subfolder per scene with fixed_view"):
        list_scenes(tmp_path)
    (tmp_path / "s1").mkdir()
    with pytest.raises(ValueError, match="s1': nothing is given"):
        list_scenes(tmp_path)
    for end in ("mp4", "mov"):
        (tmp_path / "s1" / f"fixed_view.{end}").touch()
    with pytest.raises(ValueError, match="s1' holds fixed_view.mov and fixed_view.mp4, expected one of them"):
        list_scenes(tmp_path)


@pytest.mark.parametrize(("column", "count", "message"), [
    ("fixed_view", 3, "scene 'second': video '.*b.mp4' lasts 0.25 s"),
    ("freeze_time", 1, "scene 'second': '.*b.mp4' has 1 frame"),
    ("fixed_view", 0, "scene 'second': video '.*b.mp4' cannot be decoded"),
])  # fmt: skip
def test_a_broken_video_is_named_before_anything_is_generated(tmp_path, clip, column, count, message):
    content = (
        encode_video(np.full((count, 16, 16, 3), 9, np.uint8), 12) if count else b"404 not found\n" * 999
    )
    (clip.parent / "b.mp4").write_bytes(content)
    rows = f"key,{column}\nfirst,clips/a.mp4\nsecond,clips/b.mp4\n"
    with pytest.raises(ValueError, match=message) as error:
        ReferenceVideos(scenes=str(table(tmp_path, rows))).setup("predict")
    assert "\n" not in str(error.value)


def test_scenes_are_read_in_their_turn_and_one_that_broke_is_named(tmp_path, clip):
    (clip.parent / "broken.mp4").write_bytes(clip.read_bytes())
    rows = "key,fixed_view,prompt\nfirst,clips/a.mp4,a cat\nsecond,clips/broken.mp4,\n"
    videos = ReferenceVideos(scenes=str(table(tmp_path, rows)), size=(8, 16), views=3)
    videos.setup("predict")  # looks at every video and keeps none
    (clip.parent / "broken.mp4").write_text("404 not found\n" * 999)
    loader = videos.predict_dataloader()
    batches = iter(loader)
    first = next(batches)
    assert first.keys == ["first"] and first.prompts == ["a cat"] and len(loader.dataset) == 2
    assert first.images.shape == (1, 3, 9, 3, 8, 16)
    with pytest.raises(ValueError, match="scene 'second': .*broken.mp4' cannot be decoded") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_scenes_take_the_place_of_the_other_options(tmp_path):
    with pytest.raises(ValueError, match="scenes is 'x.csv', which takes the place of fixed_view"):
        ReferenceVideos("a.mp4", scenes="x.csv")
