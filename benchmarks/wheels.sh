#!/usr/bin/env bash
# What benchmarks/gpu.sh needs on a machine without a network and with Python 3.12, into .whl/: below 60 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf .whl
platforms=()
for glibc in 28 27 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d .whl \
    "flax>=0.12.8" "grain>=0.2.18" "optax>=0.2.8" "orbax-checkpoint>=0.12.8" "tensorstore>=0.1.80" "timm==1.0.31" \
    "tyro>=1.0.14" "docstring-parser>=0.16" "tensorflow-datasets>=4.9.10" "array-record>=0.8" "simple-parsing" \
    "tensorflow-metadata" "dm-tree" "toml" "immutabledict" "importlib-resources>=6" "etils>=1.13" "shtab" \
    "typeguard" "portpicker" "termcolor" "nest-asyncio" "googleapis-common-protos" "uvloop" "rich" "markdown-it-py" "mdurl" "pygments" "tensorboard>=2.21"
python3 -m pip wheel -q --no-deps -w .whl promise # which has no wheel
du -sh .whl
