#!/bin/sh
#SBATCH --job-name=train
#SBATCH --ntasks=4
# Starts gather.py by Slurm: sbatch slurm.sh
# The processes are called train.task-0, train.task-1, …; of an array, train.array-7.task-0, …
# sbatch runs a copy of this file, in the directory that it was called in.
set -eu
exec srun python3 "${EXAMPLES:-$SLURM_SUBMIT_DIR}/gather.py" "$SLURM_NTASKS" "job-$SLURM_JOB_ID"
