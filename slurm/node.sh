#!/usr/bin/env bash
# What a batch script starts on each of its nodes: the command that it is given, and the ear that
# the command does not have.
set -euo pipefail

# SLURM tells of a preemption to the tasks alone, by SIGTERM: the first one, which is on the batch
# script's node, passes it on.
pass_on() {
  if [[ $SLURM_NODEID == 0 ]]; then kill -USR1 "$SHOPREC_BATCH_PID" 2>/dev/null || true; fi
}
trap pass_on TERM
trap : USR1

# The signals reach every process of a task, and the command is deaf to them until it listens
# itself: it ends when its checkpoint is written.
(
  trap '' TERM USR1
  exec "$@"
) &
command=$!

# A trapped signal ends `wait`: it is asked for the exit code once the command has ended.
while kill -0 "$command" 2>/dev/null; do
  sleep 1 &
  wait $! || true
done
wait "$command"
