#!/bin/bash
# Debian's Grid Engine on this machine, without systemd; root may submit. Run it as root.
# usage: up.sh WORK_DIR SLOTS QMASTER_PORT EXECD_PORT
# Its cell is the package's own, /var/lib/gridengine/default: there can be one at a time.
set -euo pipefail
T=$1 SLOTS=$2
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default SGE_ARCH=lx-amd64
export SGE_QMASTER_PORT=$3 SGE_EXECD_PORT=$4
H=$(hostname -s)
mkdir -p "$T" /run/gridengine
chown sgeadmin:sgeadmin /run/gridengine
echo "$H" > $SGE_ROOT/$SGE_CELL/common/act_qmaster
# 127.0.0.1 is called localhost
echo "$H localhost" > $SGE_ROOT/$SGE_CELL/common/host_aliases

/usr/sbin/sge_qmaster
for _ in $(seq 1 60); do qconf -sconf > /dev/null 2>&1 && break; sleep 0.25; done

# qconf edits through an editor; it looks at the time of the file, in whole seconds
edit() { printf '#!/bin/sh\nsed -i -e "%s" "$1"\nsleep 1.1\n' "$2" > "$T/$1"; chmod +x "$T/$1"; }
edit conf 's/^min_uid.*/min_uid 0/;s/^min_gid.*/min_gid 0/;s/^load_report_time.*/load_report_time 00:00:05/;s/^execd_params.*/execd_params ENABLE_ADDGRP_KILL=1/'
edit sched 's/^schedule_interval.*/schedule_interval 0:0:2/;s/^flush_submit_sec.*/flush_submit_sec 1/;s/^flush_finish_sec.*/flush_finish_sec 1/;s/^reprioritize_interval.*/reprioritize_interval 0:0:0/'
EDITOR="$T/conf" qconf -mconf global
EDITOR="$T/sched" qconf -msconf
qconf -am root || true
qconf -ah "$H" || true
qconf -as "$H" || true
cat > "$T/host" <<CONF
hostname $H
load_scaling NONE
complex_values slots=$SLOTS
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
CONF
qconf -Ae "$T/host" 2> /dev/null || qconf -Me "$T/host"
cat > "$T/pe" <<CONF
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule \$pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
CONF
qconf -Ap "$T/pe" 2> /dev/null || qconf -Mp "$T/pe"
edit queue "s/^qname.*/qname lab.q/;s/^hostlist.*/hostlist $H/;s/^slots .*/slots $SLOTS/;s%^shell .*%shell /bin/bash%;s/^pe_list.*/pe_list make smp/;s/^load_thresholds.*/load_thresholds NONE/;s/^rerun .*/rerun TRUE/"
EDITOR="$T/queue" qconf -aq lab.q || EDITOR="$T/queue" qconf -mq lab.q
/usr/sbin/sge_execd
for _ in $(seq 1 60); do qstat -f | grep -q 'lab.q.*lx-amd64 *$' && exit 0; sleep 0.5; done
qstat -f >&2
exit 1
