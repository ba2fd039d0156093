#!/bin/sh
# Starts gather.py by torchrun: torchrun.sh PROCESSES [further options of torchrun, such as --nnodes 2]
# The processes are called rank-0, rank-1, …; with --role trainer, trainer-0, trainer-1, …
set -eu
processes=$1
shift
exec torchrun --nproc-per-node "$processes" "$@" \
    "$(dirname "$0")/gather.py" "${COUNT:-$processes}" "${RUN:-run-$(date +%s)}"
