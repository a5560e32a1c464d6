#!/usr/bin/env bash
# Everything that is owed to a GPU, the most important first; see benchmarks/README.md.
#
#   make gpu-pack                        once, where the network is: collects what the GPU machine lacks in out/gpu
#   benchmarks/on_gpu.sh PART OUT        on the GPU machine, from the repository's root; each part ends inside 10 minutes
#
# PART: mini    train mini from the packed pictures, leave weights, loss log and sample sheet in OUT
set -euo pipefail
part=${1:?"usage: benchmarks/on_gpu.sh PART OUT"} out=${2:?"usage: benchmarks/on_gpu.sh PART OUT"}
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/plugins:$PWD/recipes" HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE
work=out/gpu

# Without their dependencies: the machine has a torch of its own, which nothing may replace.
pip install --quiet --no-index --no-deps --find-links "$work/wheels" "$work"/wheels/*.whl
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python -c 'import torch, diffusers; print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")'

case $part in
  mini)
    python -m linzoo_recipes.mini all --out "$work" --weights "$out/weights"
    cp "$work"/vae/report.json "$out/vae-report.json"
    cp "$work"/unet/log.jsonl "$out/unet-log.jsonl"
    ;;
  *)
    echo "no part '$part'; there is: mini" >&2
    exit 2
    ;;
esac
