"""pixelSplat's chunks, written as its conversion script does."""

import io
import json
import pickle

import numpy as np
import torch
from miniature import CENTRE, FOCAL, SIZE, arc, draw, prove, read
from PIL import Image

from preparation.readers.pixelsplat import PixelSplat

WINDOW = ("--size", "80x96", "--views", "4", "--windows", "2", "--shard-size", "1")


def example(key: str) -> dict:
    cameras, images = [], []
    for pose in arc(6):
        camera = [FOCAL[0] / SIZE[1], FOCAL[1] / SIZE[0], CENTRE[0] / SIZE[1], CENTRE[1] / SIZE[0], 0, 0]
        cameras.append(torch.tensor([*camera, *np.linalg.inv(pose)[:3].flatten()], dtype=torch.float32))
        file = io.BytesIO()
        Image.fromarray(draw(pose)).save(file, "JPEG", quality=95, subsampling=0)
        images.append(torch.tensor(np.frombuffer(file.getvalue(), np.uint8)))
    return {"url": "", "timestamps": torch.arange(6), "cameras": torch.stack(cameras), "key": key,
            "images": images}  # fmt: skip


def write_index(root, chunks: dict[str, str]):
    (root / "index.json").write_text(json.dumps(chunks))


def test_points_land_where_they_are_seen(tmp_path, record_property):
    root = tmp_path / "raw"
    root.mkdir()
    torch.save([example("aa.bb"), example("cc")], root / "000000.torch")
    write_index(root, {"aa.bb": "000000.torch", "cc": "000000.torch"})
    samples = read(PixelSplat, root, tmp_path / "out", *WINDOW)
    assert [sample.key for sample in samples] == [
        f"pixelsplat-000000-{key}-{first:05d}" for key in ("aa-bb", "cc") for first in (0, 2)
    ]
    assert samples[0].group == "aa.bb"
    prove(samples, tmp_path / "out", record_property)


class Harmful:
    """Would create a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled_and_damage_is_named(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    trace = tmp_path / "executed"
    torch.save([Harmful(trace)], root / "1.torch")
    (root / "2.torch").write_bytes(pickle.dumps([Harmful(trace)]))
    (root / "3.torch").write_bytes(b"garbage")
    half = example("half")
    half["images"] = half["images"][:3]
    torch.save([half, {"key": "empty"}, example("good")], root / "4.torch")
    write_index(root, {str(k): f"{k}.torch" for k in range(1, 6)})
    samples = read(PixelSplat, root, tmp_path / "out", *WINDOW, "--windows", "1")
    assert [sample.group for sample in samples] == ["good"] and not trace.exists()
    skipped = json.loads((tmp_path / "out/reports/pixelsplat-train-part-0-of-1.json").read_text())["skipped"]
    assert set(skipped) == {"1", "2", "3", "4: half", "4: empty", "5"}
    assert "cameras are (6, 18), expected (3, 18)" in skipped["4: half"]
    assert "['cameras', 'images'] missing" in skipped["4: empty"]
    assert "expected a torch file of lists, dicts and tensors only" in skipped["1"]
