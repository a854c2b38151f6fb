#!/bin/bash
# Slurm on this machine: virtual nodes, loopback only, no systemd. Run it as root.
# usage: up.sh STATE_DIR NODES CPUS_PER_NODE GPUS_PER_NODE CONTROLLER_PORT FIRST_NODE_PORT
set -euo pipefail
S=$1 N=$2 CPUS=$3 GPUS=$4 CTLD=$5 FIRST=$6
HOST=$(hostname -s)
mkdir -p "$S"/{state,log,gpu,munge}
for i in $(seq 1 "$N"); do mkdir -p "$S/spool.n$i"; done
# device files of GPUs that are none: copies of /dev/null
for g in $(seq 0 $((GPUS - 1))); do [ -e "$S/gpu/fake$g" ] || mknod "$S/gpu/fake$g" c 1 3; done

# A job that is queued again waits as long as a credential is valid: seconds here.
cat > "$S/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$CTLD
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$S/munge/munge.socket.2,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$S/state
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd.%n.pid
SlurmdSpoolDir=$S/spool.%n
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=15
SlurmctldTimeout=15
InactiveLimit=0
KillWait=15
OverTimeLimit=0
MinJobAge=300
Waittime=0
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n[1-$N] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$FIRST-$((FIRST + N - 1))] CPUs=$CPUS RealMemory=16000 Gres=gpu:fake:$GPUS State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=01:00:00 State=UP
PartitionName=full Nodes=n1 Default=NO MaxTime=01:00:00 State=DOWN
CONF
for i in $(seq 1 "$N"); do
    for g in $(seq 0 $((GPUS - 1))); do
        echo "NodeName=n$i Name=gpu Type=fake File=$S/gpu/fake$g"
    done
done > "$S/gres.conf"

chown munge:munge "$S/munge"
chmod 0755 "$S/munge"
runuser -u munge -- /usr/sbin/munged --force --socket="$S/munge/munge.socket.2" \
    --pid-file="$S/munge/munged.pid" --log-file="$S/munge/munged.log" \
    --seed-file="$S/munge/munged.seed"
export SLURM_CONF="$S/slurm.conf"
slurmctld -f "$SLURM_CONF" -c
for i in $(seq 1 "$N"); do slurmd -f "$SLURM_CONF" -N "n$i"; done
for _ in $(seq 1 40); do
    [ "$(sinfo -h -N -o %t -p short | grep -c '^idle')" = "$N" ] && exit 0
    sleep 0.5
done
echo "not all nodes are idle after 20 s:" >&2
sinfo -N >&2
exit 1
