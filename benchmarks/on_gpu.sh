#!/usr/bin/env bash
# Everything that is owed to a GPU, the most important first; see benchmarks/README.md.
#
#   make gpu-pack                        once, where the network is: collects what the GPU machine lacks in out/gpu
#   benchmarks/on_gpu.sh PART OUT        on the GPU machine, from the repository's root; each part ends inside 10 minutes
#
# PART: kernels attention over q, k, v: every shape, the most telling first; rows, table and plot in OUT
#       layer   whole self-attention layers, likewise
#       tests   the tests of the kernels that need a GPU
#       peers   against other people's kernels on the shapes that have a bar; rows go to OUT/kernels.csv too
#       all     these four
#       mini    train mini from the packed pictures, leave weights, loss log and sample sheet in OUT
#
# A part that runs out of time keeps the rows that it has. LINZOO_COMMIT names the commit of a tree without its history.
set -euo pipefail
part=${1:?"usage: benchmarks/on_gpu.sh PART OUT"} out=${2:?"usage: benchmarks/on_gpu.sh PART OUT"}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
work=out/gpu
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/benchmarks:$PWD/plugins:$PWD/recipes:$PWD/$work/peers"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
export PYTORCH_ALLOC_CONF=expandable_segments:True

# Without their dependencies: the machine has a torch of its own, which nothing may replace.
pip install --quiet --no-index --no-deps --find-links "$work/wheels" "$work"/wheels/*.whl
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python -c 'import torch, triton; print(f"torch {torch.__version__}, triton {triton.__version__}")'

bench=(python -c 'from linzoo.cli.main import main; main()' bench)
failed=0

# within SECONDS LOG COMMAND...: at most so long, with what it says in OUT/LOG. Being cut short is no failure.
within() {
  local seconds=$1 log=$2 status=0
  shift 2
  timeout --kill-after=5 "$seconds" "$@" 2>&1 | tee -a "$out/$log" || status=${PIPESTATUS[0]}
  if [ "$status" = 124 ] || [ "$status" = 137 ]; then
    echo "cut short after $seconds seconds; the rows so far are kept" | tee -a "$out/$log"
  elif [ "$status" != 0 ]; then
    failed=$status
  fi
}

# The table, crossing points, bars and plot of OUT/NAME.csv.
report() { within 40 "$1.txt" "${bench[@]}" report "$out/$1.csv" --plot "$out/$1.png"; }

run_part() {
  case $1 in
    kernels)
      within 530 kernels.txt "${bench[@]}" kernels --out "$out/kernels.csv" \
        --mode forward --mode graph --mode backward \
        --provider triton --provider torch --provider eager --provider compile \
        --provider sdpa-flash --provider sdpa-cudnn
      report kernels
      ;;
    layer)
      within 530 layer.txt "${bench[@]}" layer --out "$out/layer.csv"
      report layer
      ;;
    tests)
      within 570 tests.txt python -m pytest -m gpu -W default -p no:cacheprovider tests/kernels tests/benchmarks
      ;;
    peers)
      within 530 kernels.txt "${bench[@]}" kernels --out "$out/kernels.csv" \
        --shape fbi_la-16384 --shape 2x65536x10x64 --shape 1x65536x5x64 \
        --provider triton --provider fbi_la-ready --provider fbi_la --provider fla
      report kernels
      ;;
    mini)
      python -m linzoo_recipes.mini all --out "$work" --weights "$out/weights"
      cp "$work"/vae/report.json "$out/vae-report.json"
      cp "$work"/unet/log.jsonl "$out/unet-log.jsonl"
      ;;
    all)
      for each in kernels layer tests peers; do run_part "$each"; done
      ;;
    *)
      echo "no part '$1'; there are: kernels, layer, tests, peers, all, mini" >&2
      exit 2
      ;;
  esac
}

run_part "$part"
exit "$failed"
