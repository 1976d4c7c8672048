#!/bin/bash
# Train on a slice of TPU v5e with XPK (https://github.com/AI-Hypercomputer/xpk), which writes the JobSet itself; nfjax
# finds the other hosts by what GKE tells each of them:
#
#     CLUSTER=my-cluster IMAGE=REGISTRY/nfjax:latest examples/kubernetes/xpk.sh --config=eca_nfnet_l0 --workdir=/gcs/runs/l0
#
# The image has nfjax[train,tpu]; /gcs is a bucket that `xpk storage attach` has mounted.
set -e
xpk workload create --cluster="$CLUSTER" --workload=nfjax-train --tpu-type="${TPU_TYPE:-v5litepod-256}" --num-slices=1 \
  --docker-image="$IMAGE" --max-restarts=20 --command="nfjax doctor && nfjax train $*"
