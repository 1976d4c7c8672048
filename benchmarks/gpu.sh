#!/usr/bin/env bash
# What a first GPU tells in ten minutes: is it the same function, and how fast is it beside timm?
#
#   bash benchmarks/gpu.sh [OUT]        OUT: folder of the results, benchmarks/results by default
#
# For a bare machine with Python, CUDA, torch, jax[cuda13], flax, optax and timm; what else is missing comes from wheels
# in .whl/, which `bash benchmarks/wheels.sh` downloads beforehand, elsewhere. Each part has a time limit, writes its
# JSON when it is done or as it goes, and does not keep the next one from running. Rehearsal on a CPU, with tiny models
# and ten times the limits: SMALL=1.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-benchmarks/results}")
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false NFJAX_CACHE=0
if compgen -G ".whl/*.whl" >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl && export PYTHONPATH=$PYTHONPATH:$site
fi
failed=0
part() { # SECONDS NAME COMMAND...
    local limit=$(($1 * (${SMALL:+9} + 1))) name=$2 start=$SECONDS status
    shift 2
    echo "== $name"
    timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
    ((status)) && failed=1
    echo "== $name: status $status, $((SECONDS - start)) s of $limit" | tee -a "$out/clock.log"
}
nvidia-smi -L 2>/dev/null
python3 -c 'import sys, jax, torch; from importlib.metadata import version as v
print(sys.version.split()[0], *(f"{p} {v(p)}" for p in ("jax", "flax", "torch", "timm")), jax.devices(), torch.cuda.is_available())' | tee "$out/clock.log"

nf=eca_nfnet_l0 large=eca_nfnet_l2 vit=vit_medium_patch16_reg4_gap_256 batch=(--batch 256) train=(--size 224) vit_train=(--size 256) rounds=5 only=()
if [ -n "${SMALL:-}" ]; then
    nf=test_nfnet large=test_nfnet vit=test_vit2 batch=(--batch 2 --size 32) train=() vit_train=() rounds=1 only=(--models test_vit2)
fi
speed=(--rounds "$rounds" --out "$out")
part 100 right python3 -m benchmarks --what right "${only[@]}" --out "$out"
part 60 digits python3 -m train.main --config=digits --workdir="$out/digits" ${SMALL:+--config.epochs=1}
part 45 resume bash benchmarks/resume.sh "$out"
part 70 infer-nf python3 -m benchmarks --what infer --models "$nf" "${batch[@]}" "${speed[@]}"
part 45 latency python3 -m benchmarks --what infer --models "$nf" "$vit" --batch 1 ${SMALL:+--size 32} "${speed[@]}" --no-torch-compile
part 60 infer-vit python3 -m benchmarks --what infer --models "$vit" "${batch[@]}" "${speed[@]}"
part 80 train-nf python3 -m benchmarks --what train --models "$nf" "${batch[@]}" "${train[@]}" "${speed[@]}" --no-torch-compile
part 70 train-vit python3 -m benchmarks --what train --models "$vit" "${batch[@]}" "${vit_train[@]}" "${speed[@]}" --no-torch-compile
part 90 routes python3 -m benchmarks --what routes --models "$nf" "${batch[@]}" --rounds "$rounds" --out "$out"
part 60 memory python3 -m benchmarks --what memory --models "$nf" "${batch[@]}" --rounds 1 --no-torch-compile --out "$out"
part 60 infer-large python3 -m benchmarks --what infer --models "$large" "${batch[@]}" "${speed[@]}" --no-torch-compile
rm -rf "$out/digits" "$out/resume"
cat "$out/clock.log"
exit $failed
