# shellcheck shell=bash
# What the batch scripts share: `source`d by them, in the folder that they were submitted from.
# Needs a function `ask_run`, which asks the run for a checkpoint and an end.

# USR1: the time limit is near, or a task was told of a preemption. TERM: the job is being ended.
asked=
ask() {
  [[ -n $asked ]] || echo "The job has to end: the run is asked for a checkpoint." >&2
  asked=yes
}
trap ask USR1 TERM

# What differs between clusters: see README.md.
site=${SHOPREC_SITE:-slurm/site.sh}
# shellcheck source=/dev/null
if [[ -f $site ]]; then source "$site"; fi

export SHOPREC_PYTHON=${SHOPREC_PYTHON:-.venv/bin/python}
export SHOPREC_BATCH_PID=$$
# srun does not take this over from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# Run a command once on each node, to its end; its exit code is left in `code`. Once the job has to
# end, the run is asked again and again: one that is just beginning may not have heard.
run_on_nodes() {
  # SHOPREC_SRUN is left unquoted, for it may hold several options.
  # shellcheck disable=SC2086
  srun --kill-on-bad-exit=1 ${SHOPREC_SRUN:-} bash slurm/node.sh "$@" &
  local step=$!
  while kill -0 "$step" 2>/dev/null; do
    if [[ -n $asked ]]; then ask_run; fi
    # A trapped signal ends this `wait`; that for the step comes when the step has ended.
    sleep 1 &
    wait $! || true
  done
  code=0
  wait "$step" || code=$?
}

# Requeue a job that stopped because it had to, and end with `code`. A run that failed, a job that
# was cancelled and a STOP that somebody made by hand are not begun again; a preempted job whose
# grace is over is requeued by SLURM itself.
finish() {
  local state
  state=$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID" || true)
  if [[ $code == 75 && -n $asked && $state == RUNNING ]]; then
    trap '' TERM USR1
    echo "Stopped with a checkpoint; requeued." >&2
    scontrol requeue "$SLURM_JOB_ID" || echo "The job cannot be requeued: submit it again." >&2
  fi
  exit "$code"
}
