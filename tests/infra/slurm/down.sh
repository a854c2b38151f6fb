#!/bin/bash
# Ends what up.sh started, by pid. usage: down.sh STATE_DIR
S=$1
export SLURM_CONF="$S/slurm.conf"
scancel -u root 2>/dev/null
sleep 2
for file in "$S"/slurmd.*.pid "$S"/slurmctld.pid "$S"/munge/munged.pid; do
    [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null
done
sleep 1
true
