"""Writes a fine-tuned base model in diffusers' layout, so that plain diffusers loads it.

    python -m scene4d.networks.wan.export --network configs/network/wan2.1_1.3b.yaml \\
        --weights runs/wan/diffusion.safetensors --output my-wan

The weights that training wrote are put onto the base of `--network`, and `my-wan/transformer/` then holds config.json
and safetensors files with the names of the base, in float32 unless `--dtype` says otherwise. Text encoder, autoencoder
and scheduler stay the base's own. LoRA adapters are merged into the base, or written alone in the layout of the package
peft with `--adapter_only true`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from scene4d.atomic import replacing_folder
from scene4d.networks.pretrained import load_initial_weights
from scene4d.networks.wan.model import WanGridTransformer

log = logging.getLogger(__name__)


def export(
    network: WanGridTransformer, folder: Path, adapter_only: bool = False, shard_size: str = "5GB"
) -> None:
    """Writes a network's base, or its adapter alone; the folder appears whole or not at all.

    Adapters of a base that is written become part of its weights.

    Args:
        network: The trained network.
        folder: The folder that diffusers reads; a folder that is there is replaced.
        adapter_only: Whether to write the LoRA adapter instead of the base.
        shard_size: Size of the largest safetensors file.

    Raises:
        ValueError: The architecture has layers that plain diffusers does not know, or there is no adapter to write.
    """
    if network.adapter is None and adapter_only:
        raise ValueError("the network has no LoRA adapter that could be written alone")
    if network.architecture.new:
        raise ValueError(
            f"{type(network.architecture).__name__} has layers that diffusers does not know "
            f"({', '.join(network.architecture.new)}); only Fused has those of the base"
        )
    base = network.base
    with replacing_folder(folder) as temporary:
        if adapter_only:
            base.save_lora_adapter(temporary)
            return
        if network.adapter is not None:
            base.fuse_lora()
            base.unload_lora()
        base.save_pretrained(temporary, max_shard_size=shard_size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line.

    Raises:
        SystemExit: A file is missing or of another architecture, or an option is wrong.
    """
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_subclass_arguments(WanGridTransformer, "network", required=True)
    parser.add_argument(
        "--weights", type=list[str], required=True, help="safetensors files that training wrote"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="a folder; transformer/ is written into it"
    )
    parser.add_argument("--adapter_only", type=bool, default=False, help="write the LoRA adapter alone")
    parser.add_argument(
        "--dtype",
        type=str,
        default="float32",
        help="type in which the base is read and written; bfloat16 takes half the memory and rounds the frozen weights",
    )
    parser.add_argument("--shard_size", type=str, default="5GB", help="size of the largest file")
    try:
        options = parser.parse_args(arguments)
        options.network.init_args.dtype = options.dtype  # that of training is not that of the files
        options = parser.instantiate(options)
        load_initial_weights(options.network, options.weights)
        name = "lora" if options.adapter_only else "transformer"
        export(options.network, options.output / name, options.adapter_only, options.shard_size)
    except (ValueError, ImportError) as error:
        raise SystemExit(f"export: {error}") from error
    log.info("%s -> %s", " + ".join(options.weights), options.output / name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
