#!/bin/sh
# Set up both twins, then check everything: lint, format, types, tests. Arguments go to pytest, for instance -m 'not slow'.
#   TEST_WORKERS    processes (default: one per core)
set -eu
cd -- "$(dirname -- "$0")/.."
python=$(sh build/setup_env.sh --print-python)
workers=${TEST_WORKERS:-$(getconf _NPROCESSORS_ONLN)}
"$python" -m ruff check --quiet .
"$python" -m ruff format --check --quiet .
"$python" -m mypy
# The demo's tests need a browser. Without one they fail and say so: `-m 'not browser'` leaves them out.
DIOSCURI_BROWSER=$("$python" build/browser.py || true)
export DIOSCURI_BROWSER
# One thread per process: spinning OpenMP threads of several processes slow each other down many times over.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMP_NUM_THREADS
# Neighbouring tests share fixtures and compiled programs, so they stay in one process while both are busy.
exec "$python" -m pytest --numprocesses "$workers" --dist worksteal "$@"
