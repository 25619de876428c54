#!/usr/bin/env bash
# A search on the nodes of one Slurm job; what follows the script's name is search.run's own:
#
#   sbatch --nodes 4 --gpus-per-node 4 configs/cluster/slurm.sh --config configs/covidx.yaml \
#       --data /shared/covidx --num-samples 64 --storage-path /shared/runs \
#       --tracking-uri http://mlflow.example.org:5000
#
# Submit it in an environment where `python -m search.run` works, from a folder that all nodes
# share: the token of this job's Ray cluster lies in it while the job runs. Five minutes before
# its time is up, the search ends cleanly and the job is put into the queue again, where it
# continues; so it does where Slurm takes the nodes back. ACGAN_MODULE=selection.pick runs a pick.
#SBATCH --job-name=acgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=acgan-%j.log
set -euo pipefail
module=${ACGAN_MODULE:-search.run}
unset ACGAN_MODULE # no configuration key, and refused as one

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000)) # several jobs may share a node
address=${hosts[0]}:$port
cpus=${SLURM_CPUS_PER_TASK:-1}

# The token is in a file: a command line and, on some clusters, an environment can be read by all.
secret=$(mktemp -d "$PWD/.ray-$SLURM_JOB_ID-XXXXXX")
(
    umask 077
    python -c "import secrets; print(secrets.token_hex(32))" >"$secret/token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secret/token RAY_USAGE_STATS_ENABLED=0

nodes=()
end_cluster() {
    trap - EXIT
    if ((${#nodes[@]})); then
        kill -TERM "${nodes[@]}" 2>/dev/null || true
        wait "${nodes[@]}" || true
    fi
    rm -rf "$secret"
}
trap end_cluster EXIT

start_nodes() { # how many, which, and how `ray start` is told
    local count=$1 which=$2
    shift 2
    srun --nodes="$count" --ntasks="$count" --cpus-per-task="$cpus" "$which" \
        ray start --block --num-cpus "$cpus" --temp-dir "/tmp/ray-$SLURM_JOB_ID" "$@" &
    nodes+=($!)
}

start_nodes 1 --nodelist="${hosts[0]}" --head --port "$port" --include-dashboard false
until (: <"/dev/tcp/${hosts[0]}/$port") 2>/dev/null; do
    kill -0 "${nodes[0]}" || exit 1
    sleep 1
done
if ((${#hosts[@]} > 1)); then
    start_nodes $((${#hosts[@]} - 1)) --exclude="${hosts[0]}" --address "$address"
fi

python -m "$module" --address "$address" "$@" &
driver=$!
again=false
trap 'again=true; kill -TERM $driver' USR1 # Slurm's warning: the time is nearly up
trap 'kill -TERM $driver' TERM INT         # scancel, or nodes taken back: Slurm itself requeues
status=0
wait $driver || status=$?
while kill -0 $driver 2>/dev/null; do # a signal ended the wait, not the search
    status=0
    wait $driver || status=$?
done
if $again && ((status == 130)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
