#!/usr/bin/env bash
# How the committed reconstructor was trained: three runs, 46 minutes on one CPU core, from the scenes of
# `make small-data`. A killed run goes on when its command is repeated with `--ckpt_path last`. The committed files are
# its weights, rounded by `python -m preparation.eight_bits`.
#
# Some details of the original runs are not repeated here. The geometry run went on from weights of 500 + 740 steps
# (commit d3fc88c); it was stopped at step 800 of a cosine of 1,600 steps and continued from step 750. The joint run
# was restarted at step 300 with a cosine of 1,000 instead of 1,600 steps, and its refinement used tighter priors
# (docs/reconstruction.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1

RUNS=runs/recipe

# 1. depth, cameras and matches; `initial_weights null` starts from nothing instead: 875 steps, 20 minutes
python main.py fit --config configs/small/reconstruction_geometry.yaml --trainer.default_root_dir $RUNS/geometry

# 2. everything at once, with a Gaussian head from nothing: 1,000 steps, 18 minutes
python main.py fit --config configs/small/reconstruction_joint.yaml \
    --model.init_args.initial_weights "[$RUNS/geometry/geometry.safetensors]" \
    --trainer.default_root_dir $RUNS/reconstruction_joint

#    its weights without the Gaussian head -> geometry.safetensors
python - $RUNS/reconstruction_joint <<'END'
import sys
from safetensors.torch import load_file, save_file
weights = load_file(f"{sys.argv[1]}/reconstruction_joint.safetensors")
kept = {name: weight for name, weight in weights.items() if not name.startswith("gaussian_head.")}
save_file(kept, f"{sys.argv[1]}/geometry.safetensors")
END

# 3. temporal attention (from zero) and Gaussian head, three timesteps: 220 steps, 8 minutes
#    -> reconstruction.safetensors
python main.py fit --config configs/small/reconstruction_dynamic.yaml \
    --model.init_args.initial_weights "[$RUNS/reconstruction_joint/reconstruction_joint.safetensors]" \
    --trainer.default_root_dir $RUNS/reconstruction_dynamic
