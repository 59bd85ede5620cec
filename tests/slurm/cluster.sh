#!/usr/bin/env bash
# A real SLURM cluster of two nodes on this host, for tests: a private munged, slurmctld and two slurmd.
#     cluster.sh up FOLDER      # starts it; then: export SLURM_CONF=FOLDER/slurm.conf
#     cluster.sh down FOLDER    # ends it
# It needs root and the packages slurm-wlm and munge, but neither systemd nor cgroups, and leaves /etc and the daemons
# of an installed cluster alone. All its files, sockets included, are below FOLDER. No wait is longer than 30 seconds.
set -euo pipefail
command=${1:?up or down} S=$(realpath -m "${2:?a folder}")
export PATH=$PATH:/usr/sbin SLURM_CONF=$S/slurm.conf

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

wait_for() {  # wait_for WHAT COMMAND...
    local what=$1; shift
    for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep .2; done
    echo "after 30 s: $what" >&2; tail -n 5 "$S"/log/*.log >&2; return 1
}

up() {
    local host memory
    host=$(hostname -s)
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    mkdir -p "$S"/{ctld,n1,n2,log,munge}
    chmod 755 "$S" "$S/munge"
    head -c 1024 /dev/urandom > "$S/munge/key"
    chmod 600 "$S/munge/key"
    munged --force --key-file="$S/munge/key" --socket="$S/munge/socket" --pid-file="$S/munge.pid" \
        --log-file="$S/log/munge.log" --seed-file="$S/munge/seed"
    cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits until its credentials have expired; the default is two minutes
AuthInfo=socket=$S/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
GresTypes=gpu
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmctldPort=$(free_port)
StateSaveLocation=$S/ctld
SlurmctldPidFile=$S/slurmctld.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdSpoolDir=$S/%n
SlurmdPidFile=$S/slurmd.%n.pid
SlurmdLogFile=$S/log/slurmd.%n.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=20
MinJobAge=300
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=4 RealMemory=$memory Gres=gpu:8 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=4 RealMemory=$memory Gres=gpu:8 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=120 State=UP
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF State=UP
CONF
    touch "$S"/gpu{0..7} # the jobs compute on the CPU
    echo "Name=gpu File=$S/gpu[0-7]" > "$S/gres.conf"
    wait_for "no answer of munged" munge --socket="$S/munge/socket" -n
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N n1
    slurmd -f "$SLURM_CONF" -N n2
    wait_for "the nodes are not idle" test_idle
}

test_idle() { [ "$(sinfo -h -p low -t idle -o %D)" = 2 ]; }

down() {
    timeout 10 scancel --state=running --state=pending 2>/dev/null || true
    local pids=()
    for file in "$S"/slurmd.n1.pid "$S"/slurmd.n2.pid "$S"/slurmctld.pid "$S"/munge.pid; do
        if [ -s "$file" ]; then pids+=("$(cat "$file")"); fi
    done
    for signal in TERM KILL; do
        for pid in "${pids[@]}"; do kill -s $signal "$pid" 2>/dev/null || true; done
        for _ in $(seq 50); do
            local left=()
            for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); fi; done
            if [ ${#left[@]} = 0 ]; then return; fi
            sleep .1
        done
    done
}

case $command in up | down) "$command" ;; *) echo "up or down, not $command" >&2; exit 2 ;; esac
