"""The run at full size, made small: the same commands, from a checkpoint to what plain diffusers loads."""

import torch
from diffusers import WanTransformer3DModel

from benchmarks.full_size_step import Size, fit, load_plainly, network, write_base, write_export, write_shards
from scene4d.networks.wan import export


def test_a_step_an_export_and_plain_diffusers(tmp_path):
    size = Size(tmp_path, layers=2, heads=1, views=2, frames=5, size=(32, 32))
    assert write_base(size)["files"] > 1
    write_shards(size)
    took = fit(size)
    assert took["steps"] == 1 and 0 < took["loss"] < 20
    write_export(size)
    assert load_plainly(size)["trained tensors"] == 2 * 10
    export.main(
        ["--network", str(tmp_path / "network.yaml"), "--output", str(tmp_path / "again"),
         "--weights", f"[{next((tmp_path / 'run').rglob('last.ckpt'))}]"]
    )  # fmt: skip
    first, second, base = (
        WanTransformer3DModel.from_pretrained(
            tmp_path / name, subfolder="transformer", torch_dtype=torch.bfloat16
        )
        for name in ("tuned", "again", "base")
    )
    trained = [key for key, x in first.state_dict().items() if not torch.equal(x, base.state_dict()[key])]
    assert all(torch.equal(x, second.state_dict()[key]) for key, x in first.state_dict().items())
    assert trained and all(".attn1." in key for key in trained)
    assert network(size)["init_args"]["dtype"] == "bfloat16"
