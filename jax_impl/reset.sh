#!/bin/sh
# Remove a run of the JAX twin, logs and checkpoints: sh reset.sh NAME
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
fail() {
    printf '%s\n' "$*" >&2
    exit 2
}
[ $# -eq 1 ] || fail "usage: sh reset.sh NAME (removes logs-NAME)"
case $1 in
    '' | */*) fail "error: '$1' is not a run name" ;;
esac
[ -d "$here/logs-$1" ] || fail "error: there is no run '$1' in $here"
rm -r -- "$here/logs-$1"
