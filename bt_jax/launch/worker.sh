#!/usr/bin/env bash
# On a worker of a TPU slice: installs bt_jax, runs bt_jax.main apart from the connection, follows and stops it.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)"
here="$root/.worker"
log="$here/log"
pid="$here/pid"
# Written when the run has ended.
status="$here/status"

fail() {
  echo "error: $*" >&2
  exit 2
}

is_running() {
  [[ -f $pid ]] && kill -0 "$(<"$pid")" 2>/dev/null
}

# The system images of TPUs hold Python 3.10.
ensure_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      return
    fi
  done
  # A machine that has just started is still updating itself.
  local apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq)
  sudo add-apt-repository -y ppa:deadsnakes/ppa >/dev/null
  "${apt[@]}" update
  "${apt[@]}" install -y python3.12 python3.12-venv >/dev/null
}

install() {
  ensure_python
  "$root/launch.sh" install tpu
}

start() {
  if is_running; then
    fail "a run is under way here already: follow it, or stop it first"
  fi
  mkdir -p "$here"
  rm -f -- "$status"
  setsid nohup "$root/bt_jax/launch/worker.sh" run "$@" >"$log" 2>&1 </dev/null &
  echo "$!" >"$pid"
}

# A signal to the whole group, as a machine that goes down sends it, ends only bt_jax.main, whose status is to be kept.
run() {
  trap : TERM INT
  cd -- "$root"
  local code=0
  .venv/bin/python -m bt_jax.main "$@" || code=$?
  echo "$code" >"$status.new"
  mv -- "$status.new" "$status"
}

follow() {
  [[ -f $pid ]] || fail "nothing was started here"
  tail -n +1 -F -s 0.2 --pid="$(<"$pid")" "$log" 2>/dev/null || true
  if [[ ! -f $status ]]; then
    fail "the run was killed: see $log"
  fi
  exit "$(<"$status")"
}

stop() {
  is_running || return 0
  # The group of bt_jax.main and this script, which `setsid` made.
  kill -TERM -- "-$(<"$pid")"
  tail -n 0 -f -s 0.2 --pid="$(<"$pid")" /dev/null
}

action="${1-}"
(($#)) && shift
case "$action" in
  install | start | run | follow | stop) "$action" "$@" ;;
  *) fail "unknown action '$action': use install, start, run, follow or stop" ;;
esac
