#!/bin/sh
# slurm-cluster.sh DIRECTORY COMMAND...: runs COMMAND on a Slurm cluster with two nodes, n1 and n2, that lives as long as it.
# Wants namespaces of its own, so that nothing of it meets the host: unshare --mount --net --pid --fork --mount-proc.
# With KNOWN_NODES=0 the nodes' names do not resolve.
set -e
directory=$1
shift
host=$(hostname -s)
ip link set lo up
ip address add 10.99.0.1/32 dev lo
ip address add 10.99.0.2/32 dev lo
{
    echo "127.0.0.1 localhost $host"
    [ "$KNOWN_NODES" = 0 ] || printf '10.99.0.1 n1\n10.99.0.2 n2\n'
} >"$directory/hosts"
mount --bind "$directory/hosts" /etc/hosts

mkdir "$directory/state"
dd if=/dev/urandom of="$directory/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$directory/munge.key"
cat >"$directory/slurm.conf" <<END
ClusterName=skein
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$directory/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool-%n
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd-%n.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17821 CPUs=8
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17822 CPUs=8
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$directory/slurm.conf"

munged --force --key-file="$directory/munge.key" --socket="$directory/munge.socket" --pid-file="$directory/munged.pid" \
    --log-file="$directory/munged.log" --seed-file="$directory/munged.seed"
slurmctld
slurmd -N n1
slurmd -N n2
tries=0
until [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "the cluster did not start: $(tail -n 3 "$directory/slurmctld.log")" >&2; exit 99; }
    sleep 0.1
done
exec "$@"
