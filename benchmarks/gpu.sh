#!/usr/bin/env bash
# What a first GPU tells in ten minutes: is it the same function, and how fast is it beside timm?
#
#   bash benchmarks/gpu.sh [OUT] [PART...]     OUT: folder of the results, benchmarks/results/gpu by default
#
# For a bare machine with Python, CUDA, torch, jax[cuda13], flax, optax and timm; what else is missing comes from wheels
# in .whl/, which `bash benchmarks/wheels.sh` downloads beforehand, elsewhere. Each part has a time limit and a folder,
# writes its JSON when it is done or as it goes, and does not keep the next one from running. What is timed runs alone;
# before it and together runs what is not. What compilers keep is in OUT/cache: with it a second run is short.
# No part runs beyond BUDGET seconds, 600 by default. Rehearsal on a CPU, with tiny models and ten times as long: SMALL=1.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-benchmarks/results/gpu}")
shift
parts=" $* "
mkdir -p "$out/cache"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false NFJAX_CACHE=0
export JAX_COMPILATION_CACHE_DIR=$out/cache/jax TORCHINDUCTOR_CACHE_DIR=$out/cache/torch
if compgen -G ".whl/*.whl" >/dev/null && python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))'; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" .whl/*.whl && export PYTHONPATH=$PYTHONPATH:$site
fi
failed=0 times=$((${SMALL:+9} + 1))
part() { # SECONDS NAME COMMAND...
    local name=$2 start=$SECONDS left=$((${BUDGET:-600} * times - SECONDS)) status
    local limit=$(($1 * times < left ? $1 * times : left))
    shift 2
    [[ $parts == "  " || $parts == *" $name "* ]] || return 0
    if ((limit < 5)); then
        echo "== $name: no time left" | tee -a "$out/clock.log"
        return 1
    fi
    echo "== $name"
    mkdir -p "$out/$name"
    timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$out/$name/log"
    status=${PIPESTATUS[0]}
    ((status)) && failed=1
    echo "== $name: status $status, $((SECONDS - start)) s of $limit" | tee -a "$out/clock.log"
    return "$status"
}
bench() { # SECONDS NAME OPTIONS...
    part "$1" "$2" python3 -m benchmarks "${@:3}" --out "$out/$2"
}
nvidia-smi -L 2>/dev/null
python3 -c 'import sys, jax, torch; from importlib.metadata import version as v
print(sys.version.split()[0], *(f"{p} {v(p)}" for p in ("jax", "flax", "torch", "timm")), jax.devices(), torch.cuda.is_available())' | tee "$out/clock.log"

nf=(--models eca_nfnet_l0 --batch 256) vit=(--models vit_medium_patch16_reg4_gap_256 --batch 256) large=(--models eca_nfnet_l2 --batch 256)
one=(--models eca_nfnet_l0 vit_medium_patch16_reg4_gap_256 --batch 1) nf_size=(--size 224) vit_size=(--size 256) rounds=(--rounds 5) only=()
if [ -n "${SMALL:-}" ]; then
    nf=(--models test_nfnet --batch 2 --size 32) vit=(--models test_vit2 --batch 2) large=("${nf[@]}")
    one=(--models test_nfnet --batch 1 --size 32) nf_size=() vit_size=(--size 32) rounds=(--rounds 1) only=(--models test_vit2)
fi
{
    part 150 right env XLA_FLAGS=--xla_gpu_autotune_level=0 python3 -m benchmarks --what right "${only[@]}" --out "$out/right" &
    part 100 digits python3 -m train.main --config=digits --workdir="$out/digits/run" ${SMALL:+--config.epochs=1} &
    part 150 resume env -u JAX_COMPILATION_CACHE_DIR bash benchmarks/resume.sh "$out/resume" &
    part 150 warm-nf python3 -m benchmarks --what warm "${nf[@]}" "${nf_size[@]}" &
    part 150 warm-vit python3 -m benchmarks --what warm "${vit[@]}" "${vit_size[@]}" &
    for job in $(jobs -p); do wait "$job" || failed=1; done
}
bench 90 infer-nf --what infer "${nf[@]}" "${rounds[@]}"
bench 120 train-nf --what train "${nf[@]}" "${nf_size[@]}" "${rounds[@]}"
bench 90 infer-vit --what infer "${vit[@]}" "${rounds[@]}"
bench 90 train-vit --what train "${vit[@]}" "${vit_size[@]}" "${rounds[@]}"
bench 90 kernels-nf --what kernels "${nf[@]}" --hlo
bench 60 kernels-vit --what kernels "${vit[@]}" --hlo
bench 60 latency --what infer "${one[@]}" "${rounds[@]}" --no-torch-compile
bench 120 routes-nf --what routes "${nf[@]}" "${rounds[@]}"
bench 60 routes-vit --what routes "${vit[@]}" "${rounds[@]}" --ways split cublas
bench 60 memory --what memory "${nf[@]}" --rounds 1 --no-torch-compile
bench 60 infer-large --what infer "${large[@]}" "${rounds[@]}" --no-torch-compile
rm -rf "$out/digits/run" "$out/resume/resume"
cat "$out/clock.log"
exit $failed
