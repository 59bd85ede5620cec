#!/usr/bin/env bash
# The common part of one_node.sbatch and nodes.sbatch: starts one process per GPU on every node of the job.
set -euo pipefail
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 20000))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over from sbatch
echo "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}: $SLURM_JOB_NODELIST, $MASTER_ADDR:$MASTER_PORT"
# if one of the processes dies, srun ends the others
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" main.py fit \
    --config "${CONFIG:?a config of configs/}" --config "${TRAINER:-configs/trainer/fsdp2.yaml}" --ckpt_path last "$@" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"
