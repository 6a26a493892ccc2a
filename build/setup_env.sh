#!/bin/sh
# Make the environment of both twins at the root of the repository, or repair an interrupted one.
#
#   sh build/setup_env.sh [cpu|cuda|tpu]    pinned packages of build/requirements-<backend>.txt, this project editable
#   sh build/setup_env.sh --print-python    print the environment's interpreter; creates the environment first if necessary
#
# Without a backend: that of the existing environment, else cpu. Messages go to stderr.
#   PYTHON             interpreter to start from (default: the first Python 3.11 found)
#   DIOSCURI_ENV       folder of the environment (default: .venv at the root)
#   DIOSCURI_PYTHON    your own interpreter with all packages installed: --print-python only prints it
#   TORCH_INDEX_URL    additional package index, for PyTorch's CPU wheels
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
env=${DIOSCURI_ENV:-$root/.venv}
stamp=$env/dioscuri.stamp

say() { printf '%s\n' "environment: $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 2; }

# Backend, folder and checksum of the pinned packages: if any of these changes, the environment is stale.
expected_stamp() {
    printf '%s\n%s\n' "$1" "$root"
    cksum <"$root/build/requirements-$1.txt"
}

is_ready() {
    [ -x "$env/bin/python" ] && [ -f "$stamp" ] && [ "$(expected_stamp "$1")" = "$(cat "$stamp")" ]
}

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python /usr/local/bin/python3.11 /usr/bin/python3.11; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 with venv found: install python3.11 and python3.11-venv, or set PYTHON to such an interpreter"
}

# Run pip in the background and count the packages it has collected; its output goes to the log.
pip_install() {
    log=$1; total=$2; shift 2
    : >"$log"
    "$env/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" >"$log" 2>&1 &
    pip_pid=$!
    trap 'kill "$pip_pid" 2>/dev/null; say "interrupted; run again to repair"; exit 130' INT TERM
    shown=0
    doing=found
    while kill -0 "$pip_pid" 2>/dev/null; do
        count=$(grep -c -e '^Collecting' -e '^Processing' "$log" || true)
        [ "$count" -le "$total" ] || count=$total
        if [ "$doing" = found ] && [ "$total" -gt 1 ] && grep -q '^Installing collected packages' "$log"; then
            doing='found; installing them takes a minute or two'
            [ -t 2 ] || say "$total packages $doing"
        fi
        if [ -t 2 ]; then
            printf '\renvironment: %s of %s packages %s ' "$count" "$total" "$doing" >&2
        elif [ "$count" -ge $((shown + 25)) ]; then
            shown=$count
            say "$count of $total packages found"
        fi
        sleep 1
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    status=0
    wait "$pip_pid" || status=$?
    trap - INT TERM
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$log" >&2
        fail "installing packages failed (the whole log: $log); run again to repair"
    fi
}

make_environment() {
    python=$(find_python)
    requirements=$root/build/requirements-$backend.txt
    say "making $env ($backend) with $("$python" --version 2>&1); this takes a few minutes the first time"
    rm -rf "$env"
    mkdir -p "$(dirname -- "$env")"
    "$python" -m venv "$env"
    pip_install "$env/packages.log" "$(grep -c '==' "$requirements")" -r "$requirements" \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"}
    say "installing the project (editable)"
    pip_install "$env/project.log" 1 --no-deps --no-build-isolation --editable "$root"
    "$env/bin/python" -c 'import jax, torch; print(f"torch {torch.__version__}, jax {jax.__version__}")' >"$env/versions"
    expected_stamp "$backend" >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "ready: $(cat "$env/versions")"
}

[ "${1:-}" != --print-python ] || [ -z "${DIOSCURI_PYTHON:-}" ] || { printf '%s\n' "$DIOSCURI_PYTHON"; exit; }

backend=cpu
[ ! -f "$stamp" ] || backend=$(head -n 1 "$stamp")
print_python=no
for argument in "$@"; do
    case $argument in
        cpu | cuda | tpu) backend=$argument ;;
        --print-python) print_python=yes ;;
        *) fail "unknown argument '$argument'; usage: sh build/setup_env.sh [cpu|cuda|tpu] [--print-python]" ;;
    esac
done

if ! is_ready "$backend"; then
    # One process at a time. The lock is released when no process holds the file open, so a killed run leaves none behind.
    if [ "${DIOSCURI_SETUP_LOCK:-}" != held ]; then
        DIOSCURI_SETUP_LOCK=held exec "$(find_python)" "$root/build/with_lock.py" "$env.lock" sh "$0" "$@"
    fi
    make_environment
fi
[ "$print_python" = no ] || printf '%s\n' "$env/bin/python"
