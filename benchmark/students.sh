#!/usr/bin/env bash
# Makes one row of the students' tables from nothing, with the commands that docs/students.md
# explains: demonstrations, a first student of states, handovers from it, the student, its score.
# What is there already is kept, so rows of one task share their demonstrations, and a run that was
# stopped goes on.
#
#   benchmark/students.sh ENV MODALITY HEAD [SEED]      state, rgb or depth; transformer, ...
#   benchmark/students.sh KomoPush-v0 rgb diffusion 1
#
# Leaves demos/*.h5, runs/students/*, and the result in benchmark/results.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

[ $# -ge 3 ] || { sed -n 's/^# \{0,1\}//p' "$0" >&2 && exit 2; }
env=$1 modality=$2 head=$3 seed=${4:-0}
python=${PYTHON:-.venv/bin/python}
students=runs/students

case $modality in
    state) encoder=(--encoder state --control-mode ee --steps 1500) name=$env-state-$head-$seed ;;
    *) encoder=(--modality "$modality") name=$env-resnet18-$modality-$head-$seed ;;
esac

"$python" -m experts.collect --env "$env" --episodes 1000 --out "demos/$env.h5"
"$python" -m policies.train --demos "demos/$env.h5" --encoder state --control-mode ee --steps 1500 \
    --out "$students/$env-first"
"$python" -m policies.collect --policy "$students/$env-first/seed0" --episodes 500 \
    --out "demos/$env-handovers.h5"
"$python" -m policies.train --demos "demos/$env.h5" "demos/$env-handovers.h5" "${encoder[@]}" \
    --head "$head" --seeds "$seed" --out "$students/$env-$modality-$head"
"$python" -m benchmark.run --policy "$students/$env-$modality-$head/seed$seed" --env "$env" \
    --out "runs/$name"
cp "runs/$name/result.json" "benchmark/results/$name.json"
