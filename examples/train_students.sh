#!/usr/bin/env bash
# Makes one row of the leaderboard from nothing, with the commands that docs/students.md explains:
# demonstrations, a first state-based student, interventions in its episodes, the student, its score.
# In a hard environment a first image-based student is trained, too, and the final one learns from
# interventions in the episodes of both.
# Existing files are kept, so rows of one task share their demonstrations, and an interrupted run is
# resumed.
#
#   examples/train_students.sh ENV MODALITY HEAD [SEED]     state, rgb, depth; transformer, diffusion, act
#   examples/train_students.sh KomoPush-v0 rgb diffusion 1
#
# Leaves demos/*.h5, runs/*, and the row in benchmark/results and leaderboard.md.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

[ $# -ge 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
env=$1 modality=$2 head=$3 seed=${4:-0}
python=${PYTHON:-.venv/bin/python}
student=$env-$modality-$head

state_based=(--encoder state --control-mode ee --steps 1500)
case $modality in
    state) encoder=("${state_based[@]}") ;;
    *) encoder=(--modality "$modality") ;;
esac
case $modality-$env in
    rgb-*Hard* | depth-*Hard*) encoder+=(--steps 4500 --use-image-features False --map-encoder True) ;;
esac

"$python" -m experts.collect --env "$env" --episodes 1000 --out "demos/$env.h5"
"$python" -m policies.train --demos "demos/$env.h5" "${state_based[@]}" --out "runs/students/$env-first"
"$python" -m policies.collect --policy "runs/students/$env-first/seed0" --episodes 500 \
    --out "demos/$env-interventions.h5"
demos=("demos/$env.h5" "demos/$env-interventions.h5")
case $modality-$env in
    rgb-*Hard* | depth-*Hard*)
        "$python" -m policies.train --demos "${demos[@]}" "${encoder[@]}" \
            --head "$head" --seeds "$seed" --out "runs/students/$student-before"
        "$python" -m policies.collect --policy "runs/students/$student-before/seed$seed" \
            --episodes 500 --first-seed 200000 --out "demos/$student-$seed-interventions.h5"
        demos+=("demos/$student-$seed-interventions.h5")
        ;;
esac
"$python" -m policies.train --demos "${demos[@]}" "${encoder[@]}" \
    --head "$head" --seeds "$seed" --out "runs/students/$student"
"$python" -m benchmark.run --policy "runs/students/$student/seed$seed" --env "$env" \
    --out "runs/$student-$seed"
"$python" -m benchmark.submit "runs/$student-$seed/result.json" --name "$student-$seed" \
    --authors komo-envs
