#!/usr/bin/env bash
# The Slurm profile on a real Slurm of one node: a notebook with its two trainings, one of which is killed on the way.
# Run as root on a scratch machine with Debian: it installs Slurm and writes /etc/slurm. See README.md.
set -euo pipefail

cd "$(dirname "$0")/../.."
BIN=$PWD/.venv/bin
MARK="# written by tests/cluster/slurm.sh"
SCRATCH=$(mktemp -d)
OUT=$SCRATCH/outputs
LOG=$SCRATCH/grid.log
RUNS=$OUT/smoke/runs
TARGET=$OUT/smoke/notebooks/00_start_here.json
started=() # daemons, last first
grid=

say() { printf '%-28s %s\n' "$1" "$2"; }

finish() {
  code=$?
  trap - EXIT
  if [ -n "$grid" ] && kill -0 "$grid" 2>/dev/null; then kill -INT "$grid" 2>/dev/null; wait "$grid" || true; fi
  if [ $code != 0 ]; then
    for log in "$LOG" "$SCRATCH"/slurm*.log; do [ -f "$log" ] && echo "--- $log" && tail -n 30 "$log"; done
  fi
  [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
  for file in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
    if grep -qsF "$MARK" $file; then rm $file; fi
  done
  if [ $code = 0 ]; then rm -rf "$SCRATCH"; else echo "Everything is kept in $SCRATCH"; fi
  [ $code = 0 ] && echo PASSED || echo FAILED
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() { echo "$1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "this installs packages and starts daemons: run it as root, on a scratch machine"
[ -x "$BIN/snakemake" ] || fail "no environment yet: make setup"
for file in /etc/slurm/slurm.conf /etc/slurm/gres.conf; do
  if [ -e $file ] && ! grep -qF "$MARK" $file; then fail "$file exists: this is no scratch machine"; fi
done

# ---- a Slurm of one node

if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >"$SCRATCH/apt.log" 2>&1 || fail "$(tail -n 5 "$SCRATCH/apt.log")"
fi
host=$(hostname -s)
mkdir -p /etc/slurm "$SCRATCH/state" "$SCRATCH/spool"
chmod 755 "$SCRATCH"
# The plug-in empties the SLURM_* environment, so the file lies where Slurm looks for it. config_overrides: what the
# node is said to have is believed, so that a small machine does; the GPUs are files that exist and are never opened.
cat >/etc/slurm/slurm.conf <<CONF
$MARK
ClusterName=scratch
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$SCRATCH/state
SlurmdSpoolDir=$SCRATCH/spool
SlurmctldPidFile=$SCRATCH/slurmctld.pid
SlurmdPidFile=$SCRATCH/slurmd.pid
SlurmctldLogFile=$SCRATCH/slurmctld.log
SlurmdLogFile=$SCRATCH/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
cat >/etc/slurm/gres.conf <<CONF
$MARK
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
CONF

if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  [ -f /etc/munge/munge.key ] || runuser -u munge -- mungekey --create
  install -d -o munge -g munge -m 755 /run/munge
  runuser -u munge -- munged
  started=("$(cat /run/munge/munged.pid)")
fi
slurmctld
for _ in $(seq 50); do [ -s "$SCRATCH/slurmctld.pid" ] && break; sleep 0.2; done
started=("$(cat "$SCRATCH/slurmctld.pid")" "${started[@]}")
slurmd
for _ in $(seq 50); do [ -s "$SCRATCH/slurmd.pid" ] && break; sleep 0.2; done
started=("$(cat "$SCRATCH/slurmd.pid")" "${started[@]}")
for _ in $(seq 100); do [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break; sleep 0.2; done
[ "$(sinfo -h -o %t)" = idle ] || fail "the node does not come up: $(sinfo -h)"

say system "$(. /etc/os-release; echo "$PRETTY_NAME")"
say slurm "$(slurmctld -V)"
say snakemake "$("$BIN/snakemake" --version)"
say "executor plug-in" "$("$BIN/python" -c 'from importlib.metadata import version as v
print(v("snakemake-executor-plugin-slurm"), "with jobstep", v("snakemake-executor-plugin-slurm-jobstep"))')"

# ---- the grid, and one running training killed

begin=$SECONDS
env PATH="$BIN:$PATH" FLOWOOD_OUTPUTS="$OUT" setsid "$BIN/snakemake" --snakefile workflow/Snakefile \
  --workflow-profile workflow/profiles/slurm --config profile=smoke --slurm-logdir "$SCRATCH/slurm_logs" \
  -- "$TARGET" >"$LOG" 2>&1 &
grid=$!

visible() { # the GPUs that Slurm gave a job, read from the job's own processes
  for pid in $(scontrol listpids "$1" 2>/dev/null | awk '$1 ~ /^[0-9]+$/ {print $1}'); do
    [ -r "/proc/$pid/environ" ] || continue
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | awk -F= '
      $1 == "SLURM_JOB_ID" {own = 1}
      $1 == "CUDA_VISIBLE_DEVICES" {gpu = $2}
      END {if (own) print gpu == "" ? "none" : gpu; exit !own}' && return
  done 2>/dev/null
}

killed=
declare -A seen=() devices=()
while kill -0 "$grid" 2>/dev/null; do
  while read -r job state comment; do
    seen[$job]=$comment
    if [ "$state" = RUNNING ] && [ -z "${devices[$job]:-}" ]; then devices[$job]=$(visible "$job" || true); fi
    run=${comment##*_smoke_}
    # in the midst of its work: the training has written what it is to do, and no result
    if [ -z "$killed" ] && [ "$state" = RUNNING ] && [ -e "$RUNS/$run/spec.json" ] && [ ! -e "$RUNS/$run/metrics.json" ]; then
      scancel --signal=KILL "$job"
      killed=$job
      say killed "job $job ($run), $((SECONDS - begin)) s after the start"
    fi
  done < <(squeue -h --states=all -o '%i %T %k' 2>/dev/null | grep -E '^[0-9]+ [A-Z_]+ rule_' || true)
  sleep 0.3
done
rc=0
wait "$grid" || rc=$?
grid=

for job in $(printf '%s\n' "${!seen[@]}" | sort -n); do
  say "job $job" "${seen[$job]}; $(scontrol show job "$job" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'); CUDA_VISIBLE_DEVICES ${devices[$job]:-not seen}"
done
say "seconds of the grid" $((SECONDS - begin))
say "submissions" "${#seen[@]} for 3 jobs (2 trainings, 1 notebook)"
say "return code" $rc

[ -n "$killed" ] || fail "no running training was caught and killed"
[ $rc = 0 ] || fail "the grid ended with $rc"
[ -s "$TARGET" ] || fail "the notebook left no manifest"
[ "$(find "$RUNS" -name metrics.json | wc -l)" = 2 ] || fail "not two trainings"
[ "${#seen[@]}" = 4 ] || fail "4 submissions were expected: the killed job once more"
