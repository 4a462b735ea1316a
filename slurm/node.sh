#!/usr/bin/env bash
# What train.sbatch starts once on each node: torchrun, and in it one process for each GPU, or a
# single one without GPUs. The arguments are those of `python -m trainer`.
set -euo pipefail

processes=${SLURM_GPUS_ON_NODE:-1}
threads=$((${SLURM_CPUS_PER_TASK:-1} / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

# SLURM tells of a preemption to the tasks alone, by SIGTERM: the first one, which is on the batch
# script's node, passes it on.
pass_on() {
  if [[ $SLURM_NODEID == 0 ]]; then kill -USR1 "$SHOPREC_BATCH_PID" 2>/dev/null || true; fi
}
trap pass_on TERM

# The signal reaches every process of a task. torchrun would end its workers on it, so that both
# are deaf to it: they end when their checkpoint is written.
(
  trap '' TERM USR1
  exec "$SHOPREC_PYTHON" -m torch.distributed.run \
    --signals-to-handle=SIGINT \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="$processes" \
    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$SHOPREC_RENDEZVOUS" \
    -m trainer "$@"
) &
training=$!

# A trapped signal ends `wait`: it is asked for the exit code once the training has ended.
while kill -0 "$training" 2>/dev/null; do
  sleep 1 &
  wait $! || true
done
wait "$training"
