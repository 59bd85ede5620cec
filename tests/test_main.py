"""What a user reads when the command line is wrong."""

import pytest
from jsonargparse import ArgumentError

from main import main, one_line


def test_one_line_keeps_what_is_wrong():
    nested = "Does not validate against any of the Union subtypes\n  - frames must be 4k + 1, got 10\n  - not a null"
    assert one_line(ValueError(nested)) == "frames must be 4k + 1, got 10"
    assert one_line(ValueError("size 60 must be a multiple of 8")) == "size 60 must be a multiple of 8"
    assert one_line(ValueError("any of the Union subtypes")) == "any of the Union subtypes"
    assert one_line(KeyError()) == "KeyError"


def test_a_misspelt_option_is_named():
    with pytest.raises(ArgumentError, match="modle"):
        main(["fit", "--config", "configs/small/diffusion_stage1.yaml", "--modle.x", "1"])
