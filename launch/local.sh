#!/usr/bin/env bash
# launch/local.sh COMMAND...: run COMMAND in this checkout's virtual environment, made on first use.
# PYTHON=python3.12 picks the interpreter, LM_VENV=dir the place (default .venv beside this folder).
# With an NVIDIA GPU or a TPU present the matching jax is installed; LM_EXTRAS=dev,gpu overrides.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LM_VENV:-$root/.venv}

if [ $# -eq 0 ]; then
  echo "usage: launch/local.sh COMMAND...   e.g. launch/local.sh lm train --config=configs/quickstart.py" >&2
  exit 2
fi

if [ -z "${LM_EXTRAS:-}" ]; then
  LM_EXTRAS=dev
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
    LM_EXTRAS=dev,gpu
  elif compgen -G '/dev/accel[0-9]*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    LM_EXTRAS=dev,tpu
  fi
fi

# What was asked for; an environment that was made from anything else is brought up to date.
wanted=$(cat "$root/pyproject.toml" "$root/launch/constraints.txt" | cksum)\ $LM_EXTRAS\ $root
if [ "$(cat "$venv/.ready" 2>/dev/null)" != "$wanted" ]; then
  (
    if command -v flock >/dev/null 2>&1; then mkdir -p "$venv"; exec 9>"$venv/.lock"; flock 9; fi
    [ "$(cat "$venv/.ready" 2>/dev/null)" != "$wanted" ] || exit 0      # another process made it meanwhile
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      python=""
      for p in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
        if "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$p; break; fi
      done
      if [ -z "$python" ]; then
        echo "launch/local.sh: needs Python 3.11 or later; name it with PYTHON=/path/to/python3" >&2
        exit 2
      fi
      echo "making $venv with $("$python" --version) ($LM_EXTRAS), about a minute" >&2
      "$python" -m venv "$venv" || {
        echo "launch/local.sh: could not make $venv; on Debian: apt-get install python3-venv" >&2
        exit 2
      }
    fi
    # pip byte-compiles what it installs: imports then take 1 s, not 7 s.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --compile \
      --constraint "$root/launch/constraints.txt" --editable "$root[$LM_EXTRAS]" >&2
    printf '%s' "$wanted" > "$venv/.ready"
  )
fi

export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
exec "$@"
