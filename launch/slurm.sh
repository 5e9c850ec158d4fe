#!/usr/bin/env bash
# launch/slurm.sh COMMAND...: run COMMAND as every task of a Slurm step; `lm` finds the others itself.
# Inside an allocation (salloc, or a script for sbatch): sbatch -N 4 --ntasks-per-node 1 --wrap '
#   launch/slurm.sh lm train --config=configs/quickstart.py --run=runs/a'
# LM_SRUN='-n 8' gives options to srun. The checkout and --run have to be on a shared file system.
# Not run on a Slurm cluster: tried with a stand-in for srun only.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -eq 0 ]; then
  echo "usage: launch/slurm.sh COMMAND...   e.g. launch/slurm.sh lm train --config=configs/quickstart.py" >&2
  exit 2
fi
# One installs, the others find it done. When a task fails, the others say why and end by themselves.
srun --ntasks 1 --nodes 1 "$here/local.sh" true
read -ra options <<< "${LM_SRUN:-}"
exec srun --kill-on-bad-exit=0 ${options[@]+"${options[@]}"} "$here/local.sh" "$@"
