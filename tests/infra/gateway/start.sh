#!/bin/sh
# Starts Dask's scheduler or a worker in an environment of its own, and where the kernel
# lets us, without the folder of the driver: as if that were another machine's disk.
# start.sh PYTHON HIDDEN scheduler|worker …
python=$1 hidden=$2
shift 2
if [ "$hidden" = - ]; then
    exec "$python" -m dask "$@"
fi
exec unshare --mount --propagation private sh -c '
    mount -t tmpfs none "$1" || exit 1
    shift
    exec "$@"' sh "$hidden" "$python" -m dask "$@"
