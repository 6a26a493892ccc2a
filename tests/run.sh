#!/bin/sh
# Set up both twins, then check everything: lint, format, types, tests. Arguments go to pytest, for instance -m 'not slow'.
#   TEST_WORKERS    processes (default: one per core)
set -eu
cd -- "$(dirname -- "$0")/.."
python=$(sh build/setup_env.sh --print-python)
workers=${TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN)}
"$python" -m ruff check --quiet .
"$python" -m ruff format --check --quiet .
# Types are checked while the tests run; what is wrong is said after them.
types=$(mktemp)
"$python" -m mypy >"$types" 2>&1 &
checker=$!
trap 'kill "$checker" 2>/dev/null || true; rm -f "$types"' EXIT
trap 'exit 130' INT TERM
# The demo's tests need a browser. Without one they fail and say so: `-m 'not browser'` leaves them out.
DIOSCURI_BROWSER=$("$python" build/browser.py || true)
export DIOSCURI_BROWSER
# One thread per process: spinning OpenMP threads of several processes slow each other down many times over.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS
status=0
# Neighbouring tests share fixtures and compiled programs, so they stay in one process while both are busy.
"$python" -m pytest --numprocesses "$workers" --dist worksteal "$@" || status=$?
wait "$checker" || status=1
cat "$types"
exit "$status"
