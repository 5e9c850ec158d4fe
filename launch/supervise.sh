#!/usr/bin/env bash
# launch/supervise.sh N COMMAND...: run COMMAND, and run it again when it fails, with what is there then.
# It gives up after N failures in a row between which --run=DIR, if COMMAND names one, got no newer
# checkpoint. Not run again: bad input (2), and what was asked to stop (130, 143).
# LM_PROCESSES=4, or a command that prints a number, e.g. LM_PROCESSES='cat processes': before each
# start, how many processes to start on this machine, told of each other by --config.mesh flags.
# LM_PAUSE=5: seconds before the next start. On many machines, run this on each, as you would COMMAND.
set -uo pipefail
set -m   # each process is a group of its own, and hears Ctrl-C

if [ $# -lt 2 ] || ! [[ $1 =~ ^[0-9]+$ ]]; then
  echo "usage: launch/supervise.sh N COMMAND...   e.g. launch/supervise.sh 5 launch/local.sh lm train --config=configs/quickstart.py" >&2
  exit 2
fi
limit=$1; shift
run=""
for word in "$@"; do case $word in --run=*) run=${word#--run=} ;; esac; done

pids=() asked=""
pass() { asked=$1; for pid in ${pids[@]+"${pids[@]}"}; do kill -"$1" -- "-$pid" 2>/dev/null; done; }
trap 'pass TERM' TERM
trap 'pass INT' INT

newest() { ls "$run/checkpoints" 2>/dev/null | grep -xE '[0-9]+' | sort -n | tail -n 1; }

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Starts $1 processes, or the one of a COMMAND that finds the others itself, with "$@" after it.
start() {
  local count=$1 port index; shift
  pids=()
  if [ "$count" -le 1 ]; then "$@" & pids=($!); return; fi
  port=$((20000 + RANDOM % 12000))
  while taken $port || taken $((port + 1)); do port=$((port + 2)); done
  for ((index = 0; index < count; index++)); do
    "$@" "--config.mesh.coordinator=127.0.0.1:$port" "--config.mesh.processes=$count" \
      "--config.mesh.process=$index" &
    pids+=($!)
  done
}

# Waits for all of them, LM_GRACE=30 s for those that outlive one that failed; sets `code` to its status.
finish() {
  local left=("${pids[@]}") still pid deadline="" ended
  code=0
  while [ ${#left[@]} -gt 0 ]; do
    still=()
    for pid in "${left[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then still+=("$pid"); continue; fi
      wait "$pid"; ended=$?
      # The others end because of the first; one that says what to correct says more.
      if [ $ended -ne 0 ] && { [ $code -eq 0 ] || [ $ended -eq 2 ]; }; then code=$ended; fi
      [ $ended -eq 0 ] || [ -n "$deadline" ] || deadline=$((SECONDS + ${LM_GRACE:-30}))
    done
    left=(${still[@]+"${still[@]}"})   # an old bash takes an empty array for an unset one
    if [ -n "$deadline" ] && [ $SECONDS -ge "$deadline" ]; then
      for pid in ${left[@]+"${left[@]}"}; do kill -KILL -- "-$pid" 2>/dev/null; done
    fi
    [ ${#left[@]} -eq 0 ] || sleep 0.2
  done
}

failures=0
while true; do
  count=${LM_PROCESSES:-1}
  [[ $count =~ ^[0-9]+$ ]] || count=$(bash -c "$count")
  before=$(newest)
  if [[ $count =~ ^[1-9][0-9]*$ ]]; then
    start "$count" "$@"
    finish
  else
    echo "launch/supervise.sh: LM_PROCESSES gives '$count', which is no number of processes" >&2
    code=1
  fi
  case $code in 0 | 2 | 130 | 143) exit $code ;; esac
  [ -z "$asked" ] || exit $code
  if [ -n "$run" ] && [ "$(newest)" != "$before" ]; then failures=0; fi
  failures=$((failures + 1))
  if [ $failures -ge "$limit" ]; then
    echo "launch/supervise.sh: ended with $code, $failures times in a row without a new checkpoint" >&2
    exit $code
  fi
  echo "launch/supervise.sh: ended with $code; again in ${LM_PAUSE:-5} s" >&2
  sleep "${LM_PAUSE:-5}"
  [ -z "$asked" ] || exit 143
done
