#!/usr/bin/env bash
# launch/tpu_vm.sh COMMAND...: run COMMAND on every host of a Cloud TPU slice; `lm` finds the others itself.
# TPU=name and ZONE=zone say which, as in `gcloud compute tpus tpu-vm list`. This checkout is copied to
# ~/lm there first. With more than one host, --run has to be on a file system that all of them share.
# Not run on a TPU: tried with a stand-in for gcloud only.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ $# -eq 0 ] || [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then
  echo "usage: TPU=name ZONE=zone launch/tpu_vm.sh COMMAND...   e.g. lm train --config=configs/quickstart.py" >&2
  exit 2
fi
there() { gcloud compute tpus tpu-vm "$1" "${@:2}" --zone="$ZONE" --worker=all; }

packed=$(mktemp)
trap 'rm -f "$packed"' EXIT
tar -C "$root" --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=__pycache__ \
  --exclude=./.pytest_cache -czf "$packed" .
there scp "$packed" "$TPU:lm.tar.gz"
there ssh "$TPU" --command="mkdir -p lm && tar -C lm -xzf lm.tar.gz && cd lm && launch/local.sh$(printf ' %q' "$@")"
