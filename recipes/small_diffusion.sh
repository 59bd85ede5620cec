#!/usr/bin/env bash
# How the committed autoencoder, base video model and 4D diffusion model were trained: eight runs, about five hours on
# two CPU cores, from the scenes of `make small-data`. A killed run goes on when its command is repeated with
# `--ckpt_path last`. Every run leaves its weights in runs/recipe/NAME/. The committed files are these weights, rounded
# by `python -m preparation.eight_bits`.
#
# Three details of the original runs are not repeated here. The first five runs were in bf16 on a processor with AMX.
# The fourth was stopped at step 900. The sixth had other noise levels for its first 800 steps (logit_mean 0.2,
# logit_std 1.2, pure_noise 0.15) and a cosine of 1,300 steps.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUNS=runs/recipe
AUTOENCODER=$RUNS/refinement/autoencoder.safetensors
BASE=$RUNS/base/base_video.safetensors
# all runs of the diffusion model share these options; compiling needs a C++ compiler and pays off after some hundred
# steps
DIFFUSION=(--model.init_args.autoencoder.init_args.weights "$AUTOENCODER" --model.init_args.compile true)
WARMUP=--model.init_args.lr_scheduler.init_args.warmup_steps
RATE=--model.init_args.optimizer.init_args.lr
WEIGHTS=--model.init_args.initial_weights

# 1. the autoencoder, 9 frames, from principal components: 2,600 steps of 12 videos, 39 minutes
python -m preparation.linear_codec --data configs/data/small_videos_full.yaml \
    --data.init_args.train_defaults.selection.init_args.frames 9 \
    --network.channels 48 --output $RUNS/autoencoder/linear_codec.safetensors
python main.py fit --config configs/small/autoencoder.yaml \
    $WEIGHTS "[$RUNS/autoencoder/linear_codec.safetensors]" --trainer.default_root_dir $RUNS/autoencoder

# 2. its refinement alone, 17 frames: 2,000 steps of 2 videos, 18 minutes
python main.py fit --config configs/small/autoencoder_refinement.yaml \
    --model.init_args.network.init_args.weights $RUNS/autoencoder/autoencoder.safetensors \
    --data.init_args.batch_size 2 --trainer.default_root_dir $RUNS/refinement

# 3. the base video model, one view, all parameters: 1,300 steps of 12 videos, 25 minutes
python main.py fit --config configs/small/base_video.yaml "${DIFFUSION[@]}" --trainer.default_root_dir $RUNS/base_first

# 4. 4D, 9 frames, self-attention only: 1,800 steps of 6 grids (28 minutes for the first 900); noise levels of the base
FIRST_LEVELS=(--model.init_args.flow.logit_mean 0.4 --model.init_args.flow.pure_noise 0.2)
python main.py fit --config configs/small/diffusion_stage1.yaml --config configs/small/larger_set.yaml \
    "${DIFFUSION[@]}" "${FIRST_LEVELS[@]}" $WEIGHTS "[$RUNS/base_first/base_video.safetensors]" $WARMUP 50 \
    --data.init_args.batch_size 6 --trainer.max_steps 1800 --trainer.default_root_dir $RUNS/stage1

# 5. 4D, 17 frames: 650 steps of 4 grids, 29 minutes
python main.py fit --config configs/small/diffusion_stage2.yaml --config configs/small/larger_set.yaml \
    "${DIFFUSION[@]}" "${FIRST_LEVELS[@]}" $WARMUP 20 \
    $WEIGHTS "[$RUNS/base_first/base_video.safetensors, $RUNS/stage1/diffusion.safetensors]" \
    --trainer.max_steps 650 --trainer.default_root_dir $RUNS/stage2

# 6. the same, continued from the exported weights: 1,200 steps of 4 grids, 60 minutes
python main.py fit --config configs/small/diffusion_stage2.yaml --config configs/small/larger_set.yaml \
    "${DIFFUSION[@]}" $WARMUP 30 $RATE 8e-4 \
    $WEIGHTS "[$RUNS/base_first/base_video.safetensors, $RUNS/stage2/diffusion.safetensors]" \
    --trainer.max_steps 1200 --trainer.default_root_dir $RUNS/stage2_longer

# 7. the base video model again, from both: 1,200 steps of 12 videos, 41 minutes -> base_video.safetensors
python main.py fit --config configs/small/base_video.yaml "${DIFFUSION[@]}" $WARMUP 30 $RATE 1e-3 \
    --model.init_args.flow \
    '{prediction: data, logit_mean: -1.2, pure_noise: 0.35, sampling_shift: 0.07, sigma_floor: 0.6}' \
    $WEIGHTS "[$RUNS/base_first/base_video.safetensors, $RUNS/stage2_longer/diffusion.safetensors]" \
    --trainer.max_steps 1200 --trainer.default_root_dir $RUNS/base

# 8. 4D again, 17 frames, from that base: 1,400 steps of 4 grids, 70 minutes -> diffusion.safetensors
python main.py fit --config configs/small/diffusion_stage2.yaml --config configs/small/larger_set.yaml \
    "${DIFFUSION[@]}" $WARMUP 30 $WEIGHTS "[$BASE, $RUNS/stage2_longer/diffusion.safetensors]" \
    --trainer.max_steps 1400 --trainer.default_root_dir $RUNS/diffusion
