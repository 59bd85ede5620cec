import csv

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from benchmarks.curves import main


def log(folder, numbers: dict[int, float]) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, number in numbers.items():
            writer.add_scalar("train/loss", number, step)
            writer.add_scalar("val/psnr_objects", 30 + number, step)
        writer.add_scalar("epoch", 1, 0)


def numbers(path) -> dict[tuple[str, str, int], float]:
    rows = csv.DictReader(path.read_text().splitlines())
    return {(row["run"], row["value"], int(row["step"])): float(row["number"]) for row in rows}


def test_a_run_becomes_a_table_and_a_picture_and_outlives_its_folder(tmp_path):
    log(tmp_path / "a", {1: 0.5, 2: 0.25})
    main([str(tmp_path / "curves"), f"first={tmp_path}/a"])
    once = numbers(tmp_path / "curves.csv")
    assert once == {
        ("first", "train/loss", 1): 0.5, ("first", "train/loss", 2): 0.25,
        ("first", "val/psnr_objects", 1): 30.5, ("first", "val/psnr_objects", 2): 30.25,
    }  # fmt: skip
    log(tmp_path / "b", {1: 0.125})
    main([str(tmp_path / "curves"), f"second={tmp_path}/b"])
    assert numbers(tmp_path / "curves.csv").items() > once.items()
    assert numbers(tmp_path / "curves.csv")["second", "train/loss", 1] == 0.125
    assert len(np.unique(Image.open(tmp_path / "curves.webp").convert("L"))) > 10
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "curves.csv", "curves.webp"}


@pytest.mark.parametrize(
    "run, message", [("a=absent", "'absent' has no events"), ("a", "'a' is not NAME=FOLDER")]
)
def test_wrong_runs_are_named(tmp_path, run, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as error:
        main([str(tmp_path / "curves"), run])
    assert message in str(error.value) + capsys.readouterr().err
    assert not list(tmp_path.iterdir())
