#!/usr/bin/env bash
# The common part of preparation.sbatch and caches.sbatch: one task of the array makes every n-th shard and no other.
#     bash slurm/part.sh COMMAND OPTIONS...      # runs python -m preparation.COMMAND OPTIONS... --part TASK/TASKS
# Shards that exist are left as they are. At the time limit the task goes back to the queue and makes the missing ones.
set -euo pipefail
tasks=${PARTS:-$((SLURM_ARRAY_TASK_MAX + 1))}
if [ -z "${PARTS:-}" ] && [ "$SLURM_ARRAY_TASK_COUNT" != "$tasks" ]; then
    echo "an array without all of its tasks: PARTS=16 sbatch --array=3,7 ... repeats tasks 3 and 7 of 16" >&2
    exit 2
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"${PYTHON:-.venv/bin/python}" -m "preparation.$1" "${@:2}" --part "$SLURM_ARRAY_TASK_ID/$tasks" &
task=$!
trap 'scontrol requeue "$SLURM_JOB_ID"; wait "$task"' USR1
wait "$task"
