#!/bin/sh
# Starts Dask's scheduler or a worker in an environment of its own, and without the
# driver's folder, as if that were another machine's disk.
# start.sh PYTHON HIDDEN scheduler|worker …
# On one core, since the last bits of scores follow from the number of threads.
python=$1 hidden=$2
shift 2
taskset -p -c $(($$ % $(nproc))) $$ >&2
exec unshare --mount --propagation private sh -c '
    mount -t tmpfs none "$1" || exit 1
    shift
    exec "$@"' sh "$hidden" "$python" -m dask "$@"
