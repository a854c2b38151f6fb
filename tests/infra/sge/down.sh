#!/bin/bash
# Ends what up.sh started. usage: down.sh QMASTER_PORT EXECD_PORT
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default
export SGE_QMASTER_PORT=$1 SGE_EXECD_PORT=$2
qdel -f -u '*' > /dev/null 2>&1
sleep 1
qconf -ke all > /dev/null 2>&1
sleep 1
qconf -km > /dev/null 2>&1
for _ in $(seq 1 60); do qconf -sconf > /dev/null 2>&1 || break; sleep 0.25; done
true
