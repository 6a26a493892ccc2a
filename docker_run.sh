#!/bin/sh
# Build the image of both twins if necessary, and run a command in it on this working copy:
#
#   sh docker_run.sh [cpu|cuda|tpu] [COMMAND ...]     for instance: sh docker_run.sh cuda sh jax_impl/train.sh
#
# Without a command: a shell. Files that the command writes belong to you and stay in the working copy.
#   BASE_IMAGE         base image with Python 3.11 (default: the Dockerfile's)
#   TORCH_INDEX_URL    additional package index, for PyTorch's CPU wheels
#   DOCKER             docker or podman (default: docker)
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
docker=${DOCKER:-docker}
backend=cpu
case ${1:-} in
    cpu | cuda | tpu)
        backend=$1
        shift
        ;;
esac
command -v "$docker" >/dev/null || { echo "error: $docker is not installed; set DOCKER to your container program" >&2; exit 2; }

"$docker" build --file "$root/build/Dockerfile" --tag "dioscuri:$backend" --build-arg "BACKEND=$backend" \
    ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} \
    ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} "$root"

case $backend in
    cuda) devices='--gpus all' ;;
    tpu) devices='--privileged --network host' ;;
    *) devices='' ;;
esac
terminal=''
[ ! -t 0 ] || terminal='--interactive --tty'
[ $# -gt 0 ] || set -- sh
# Shared memory of the host: the loaders' worker processes pass pictures through it.
# shellcheck disable=SC2086
exec "$docker" run --rm $terminal $devices --ipc host --user "$(id -u):$(id -g)" --env HOME=/tmp \
    --volume "$root:/home/dioscuri/project" "dioscuri:$backend" "$@"
