#!/usr/bin/env bash
# Installs and runs bt_jax on a fresh machine: see usage below.
set -euo pipefail

root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
venv="$root/.venv"
python="$venv/bin/python"
# Holds the fingerprint of what the last complete installation was made from.
stamp="$venv/installed"

usage() {
  cat <<'USAGE'
Usage: ./launch.sh COMMAND [ARGUMENTS]

  demo [FLAGS]      train a small network on built-in phantoms and write its report to runs/demo/report;
                    FLAGS go to bt_jax.main; a finished demo is only reported again
  serve [FLAGS]     open the web page with the trained model of the package; FLAGS go to bt_jax.serve
  test [all]        check style and types and run the tests; with all, also those that take long
  test ARGUMENTS    run only pytest, with these arguments
  install [EXTRA]   only make .venv, with an extra such as cuda12, cuda13 or tpu

bt_jax.main on many hosts; each command has --help, and --dry-run prints the commands that it would run:

  multihost N ...   N processes on this machine
  tpu ...           a Cloud TPU slice, through gcloud
  gke ...           TPU slices of a GKE cluster, through kubectl
  slurm ...         the nodes of a SLURM cluster, through sbatch

  help              show this text

Needs Python 3.11 or newer and, the first time, access to packages with pip. Everything is installed into .venv next
to this script (tpu and gke install nothing here). Paths in FLAGS and ARGUMENTS are relative to the folder of this script.

Examples:
  ./launch.sh demo
  ./launch.sh serve --port=8080
  ./launch.sh demo --workdir=runs/another --config.seed=1
  ./launch.sh test
  ./launch.sh test tests/metrics -k macro
  ./launch.sh multihost 2 --config=configs/cnn.py:demo --workdir=runs/two
USAGE
}

fail() {
  echo "error: $*" >&2
  exit 2
}

announce() {
  echo "==> $*"
}

is_recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints the path of a Python that can make the virtual environment.
find_python() {
  local name path without_venv=''
  for name in python3 python3.13 python3.12 python3.11; do
    path="$(type -P "$name")" || continue
    is_recent "$path" || continue
    if "$path" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$path"
      return
    fi
    without_venv="${without_venv:-$path}"
  done
  if [[ -n $without_venv ]]; then
    fail "$without_venv lacks the modules venv and ensurepip: install them (Debian and Ubuntu: apt install python3-venv)"
  fi
  fail "found no Python 3.11 or newer (looked for python3, python3.13, python3.12, python3.11): install one"
}

make_venv() {
  local base
  if ! is_recent "$python"; then
    base="$(find_python)"
    announce "making .venv with $base"
    "$base" -m venv --clear "$venv"
  fi
}

# Prints the file of exact versions for the Python of .venv. A Python that is newer than all files takes the last one.
find_constraints() {
  "$python" -c 'import sys; print(f"constraints/python3.{min(sys.version_info[1], 13)}.txt")'
}

# Changes with all that decides what an installation with the given extra holds; it links to the folder of this script.
fingerprint() {
  { cat "$root/pyproject.toml" "$root/$constraints" && echo "$root $1"; } | cksum
}

# Installs bt_jax with an extra ('' or one of pyproject.toml), unless that, or more, was done and nothing changed since.
install() {
  local extra="$1" installed='' constraints more enough
  make_venv
  constraints="$(find_constraints)"
  [[ -f $stamp ]] && installed="$(<"$stamp")"
  enough=("$extra")
  [[ -n $extra ]] || enough+=(test cuda12 cuda13 tpu)
  for more in "${enough[@]}"; do
    [[ $installed != "$(fingerprint "$more")" ]] || return 0
  done
  announce "installing into .venv (a minute or more)"
  rm -f -- "$stamp"
  # An interrupted installation leaves an environment without pip.
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
  (cd -- "$root" && "$python" -m pip install --quiet --disable-pip-version-check \
    -c "$constraints" -e ".${extra:+[$extra]}")
  fingerprint "$extra" >"$stamp"
}

run_demo() {
  install ''
  cd -- "$root"
  announce 'bt_jax.main'
  exec "$python" -m bt_jax.main --config=configs/effnet.py:demo --workdir=runs/demo "$@"
}

run_server() {
  install ''
  cd -- "$root"
  exec "$python" -m bt_jax.serve "$@"
}

run_tests() {
  install test
  cd -- "$root"
  # Tests start hundreds of processes, each of which would compile the package's modules again.
  unset PYTHONDONTWRITEBYTECODE
  local selection='not slow and not real_data' log="$venv/mypy.log" types failed=()
  if (($# == 1)) && [[ $1 == all ]]; then
    selection=''
  elif (($#)); then
    announce 'pytest'
    exec "$python" -m pytest "$@"
  fi
  # Each check runs even where one before it failed, so that a run shows all there is to mend.
  check() {
    announce "$*"
    "$python" -m "$@" || failed+=("$*")
  }
  "$python" -m mypy >"$log" 2>&1 &
  types=$!
  # A process in the background does not see Ctrl-C.
  trap 'kill "${types-}" 2>/dev/null || true' EXIT
  check ruff check
  check ruff format --check
  check pytest -n auto --maxprocesses=4 --dist=worksteal --durations=20 -m "$selection"
  announce 'mypy'
  wait "$types" || failed+=('mypy')
  trap - EXIT
  cat -- "$log"
  if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
  fi
}

# Options go to one of bt_jax/launch. Printing what would run, or asking another machine to run it, installs nothing here.
run_launcher() {
  local name="$1" runner="$python"
  shift
  if [[ $name == multihost && " $* " != *' --dry-run '* && " $* " != *' --help '* ]]; then
    install ''
  elif ! is_recent "$runner"; then
    runner="$(find_python)"
  fi
  cd -- "$root"
  exec "$runner" -m "bt_jax.launch.$name" "$@"
}

# The home of another Python would override that of .venv.
unset PYTHONHOME

command="${1-}"
(($#)) && shift
case "$command" in
  demo) run_demo "$@" ;;
  serve) run_server "$@" ;;
  test) run_tests "$@" ;;
  install) install "${1-}" ;;
  multihost | tpu | gke | slurm) run_launcher "$command" "$@" ;;
  help | --help | -h) usage ;;
  '') fail 'no command given: use demo, serve or test, or another that ./launch.sh help shows' ;;
  *) fail "unknown command '$command': use demo, serve or test, or another that ./launch.sh help shows" ;;
esac
