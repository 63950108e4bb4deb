#!/usr/bin/env bash
# Starts train.py under torchrun, on one machine or on several.
#
#   launch/torchrun.sh +experiment=mosear trainer=ddp backbone=checkpoint ...      every GPU of this machine
#
#   On several machines, the same command on each, with NODE_RANK=0 on host-a and 1, 2, ... on the others:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host-a launch/torchrun.sh trainer=zero2 hydra.run.dir=/shared/run1 resume=auto ...
#
# Environment:
#   NNODES          machines (1)
#   NODE_RANK       which of them this is
#   MASTER_ADDR     name or address of number 0, as the others reach it
#   MASTER_PORT     a port that is free there (29500)
#   NPROC_PER_NODE  processes per machine (its GPUs; 1 without any)
#   JOB_ID          tells jobs apart that meet at one port (mosear)
#   MAX_RESTARTS    how often all workers are started again after one has failed (0); use it with resume=auto
#   GRACE           seconds workers have to save and leave when torchrun is told to stop (30)
#   PYTHON          interpreter (.venv/bin/python if there is one, else python)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
nnodes="${NNODES:-1}"
nproc="${NPROC_PER_NODE:-$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')}"

# SIGUSR1 is what batch systems send before the time is up: passed on, it makes the workers save and leave.
run=("$PYTHON" -m torch.distributed.run "--nnodes=$nnodes" "--nproc-per-node=$nproc")
run+=("--max-restarts=${MAX_RESTARTS:-0}" "--shutdown-timeout=${GRACE:-30}")
run+=("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
if [[ "$nnodes" == 1 ]]; then
  run+=(--standalone train.py)
else
  : "${MASTER_ADDR:?set MASTER_ADDR to the name or address of the first of the $nnodes machines}"
  : "${NODE_RANK:?set NODE_RANK to the number of this machine, 0 to $((nnodes - 1))}"
  # A fixed meeting point: an agent that is cut off leaves with its workers, where c10d would wait for its store.
  run+=("--node-rank=$NODE_RANK" "--master-addr=$MASTER_ADDR" "--master-port=${MASTER_PORT:-29500}")
  run+=("--rdzv-id=${JOB_ID:-mosear}" train.py "trainer.num_nodes=$nnodes")
fi
exec "${run[@]}" "$@"
