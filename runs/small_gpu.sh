#!/usr/bin/env bash
# Trains the whole small preset on one GPU, every stage within MINUTES: autoencoder, base video model, both stages of 4D
# diffusion, reconstructor. The data are the compact shards of runs/pack_small_data.sh. What is trained runs on a CPU.
#
#   bash runs/small_gpu.sh                      all stages
#   bash runs/small_gpu.sh base_video ...       only these
#
# A stage whose weights exist is skipped, and a stopped one goes on from its last checkpoint. How many steps fit into
# MINUTES is measured once per stage, so that its schedule ends with them; STEPS gives the number instead. OPTIONS are
# added to every training, for example OPTIONS="--trainer.accelerator cpu --trainer.precision 32-true".
# Variables: MINUTES (8), RUNS (runs/small_gpu), STEPS, OPTIONS, DATA_OPTIONS (of the principal components).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RUNS=${RUNS:-runs/small_gpu} MINUTES=${MINUTES:-8}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} NUMBA_NUM_THREADS=${NUMBA_NUM_THREADS:-1}
read -ra OPTIONS <<<"${OPTIONS:-}"
CODEC=$RUNS/linear_codec.safetensors
WEIGHTS=--model.init_args.initial_weights
AUTOENCODER=(--model.init_args.autoencoder.init_args.weights "$RUNS/refinement/autoencoder.safetensors")
wanted=${*:-autoencoder refinement base_video diffusion_stage1 diffusion_stage2 geometry reconstruction_joint
    reconstruction_dynamic}

stage() { # NAME FILE OPTION...: trains one stage into $RUNS/NAME
    local name=$1 file=$RUNS/$1/$2 begin=$SECONDS
    [[ " ${wanted//$'\n'/ } " == *" $name "* ]] || return 0
    if [ -e "$file" ]; then echo "$name: $file is there"; return 0; fi
    local command=(fit --config "configs/small_gpu/$name.yaml" --config configs/small_gpu/machine.yaml
        "${@:3}" "${OPTIONS[@]}")
    mkdir -p "$RUNS/$name"
    if [ -n "${STEPS:-}" ]; then echo "$STEPS" >"$RUNS/$name/steps"; fi
    if [ ! -s "$RUNS/$name/steps" ]; then
        python -m benchmarks.steps_within $((MINUTES * 57)) "${command[@]}" | tail -n 1 >"$RUNS/$name/steps.tmp"
        mv "$RUNS/$name/steps.tmp" "$RUNS/$name/steps"
    fi
    echo "$name: $(cat "$RUNS/$name/steps") steps"
    python main.py "${command[@]}" --ckpt_path last --trainer.default_root_dir "$RUNS/$name" \
        --trainer.max_steps "$(cat "$RUNS/$name/steps")"
    echo "$name: $((SECONDS - begin)) s"
}

if [ ! -e "$CODEC" ] && [[ $wanted == *autoencoder* ]]; then
    python -m preparation.linear_codec --data configs/data/small_videos_full.yaml \
        --data.init_args.train_defaults.root "${DATA:-data/compact}/grids" \
        --data.init_args.train_defaults.selection.init_args.frames 9 --network.channels 48 --output "$CODEC"
fi
stage autoencoder autoencoder.safetensors $WEIGHTS "[$CODEC]"
stage refinement autoencoder.safetensors \
    --model.init_args.network.init_args.weights "$RUNS/autoencoder/autoencoder.safetensors"
stage base_video base_video.safetensors "${AUTOENCODER[@]}"
BASE=$RUNS/base_video/base_video.safetensors
stage diffusion_stage1 diffusion.safetensors "${AUTOENCODER[@]}" $WEIGHTS "[$BASE]"
stage diffusion_stage2 diffusion.safetensors "${AUTOENCODER[@]}" \
    $WEIGHTS "[$BASE, $RUNS/diffusion_stage1/diffusion.safetensors]"
stage geometry geometry.safetensors
stage reconstruction_joint reconstruction_joint.safetensors $WEIGHTS "[$RUNS/geometry/geometry.safetensors]"
stage reconstruction_dynamic reconstruction.safetensors \
    $WEIGHTS "[$RUNS/reconstruction_joint/reconstruction_joint.safetensors]"
