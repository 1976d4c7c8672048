#!/usr/bin/env bash
# A run that is killed and goes on ends with the bits of one that is not: bash benchmarks/resume.sh FOLDER
set -euo pipefail
run() { python3 -m train.main --config=digits --config.epochs=2 --config.deterministic=true --workdir="$1" >/dev/null; }
rm -rf "$1/resume"
run "$1/resume/whole" &
whole=$!
run "$1/resume/killed" &
killed=$!
until compgen -G "$1/resume/killed/checkpoints/[0-9]*" >/dev/null || ! kill -0 $killed 2>/dev/null; do sleep 0.2; done
pkill -KILL -P $killed || true
wait $killed || true
run "$1/resume/killed"
wait $whole
cmp "$1/resume/whole/final/model.safetensors" "$1/resume/killed/final/model.safetensors" && echo "the same bits"
