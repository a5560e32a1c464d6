#!/usr/bin/env bash
# Everything that is owed to a GPU, the most important first; see benchmarks/README.md.
#
#   make gpu-pack                        once, where the network is: collects what the GPU machine lacks in out/gpu
#   benchmarks/on_gpu.sh PART OUT        on the GPU machine, from the repository's root; no part takes 10 minutes
#
# PART: kernels attention over q, k, v on the shapes that have a bar: forward, then backward; rows, table, plot in OUT
#       layer   whole self-attention layers, likewise
#       tests   the tests of the kernels that need a GPU
#       peers   against other people's kernels on the shapes that have a bar; rows go to OUT/kernels.csv too
#       more    attention on all other shapes; rows go to OUT/kernels.csv too
#       all     these five
#       distill linzoo's training loop beside the published one at the sizes of SD 1.5 and SD-XL, with random weights
#       validate  latency and memory of mini's UNet and of whole pictures, teacher beside student, up to 2048 px
#       tune    block sizes for the GPU by time; its table, a .json file in OUT, belongs in kernels/linzoo_kernels/configs
#       mini    train mini from the packed pictures, leave weights, loss log and sample sheet in OUT
#
# A part that runs out of time keeps the rows that it has. LINZOO_COMMIT names the commit of a tree without its history.
set -euo pipefail
if [ $# != 2 ]; then
  echo "usage: benchmarks/on_gpu.sh PART OUT; PART is one of: kernels, layer, tests, peers, more, all, distill, validate, tune, mini" >&2
  exit 2
fi
part=$1 out=$2
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
work=out/gpu
export PYTHONPATH="$PWD:$PWD/kernels:$PWD/benchmarks:$PWD/plugins:$PWD/recipes:$PWD/$work/peers:$PWD/$work/site"
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1

if ! test -d "$work/site" && ! compgen -G "$work/wheels/*.whl" > /dev/null; then
  echo "out/gpu has no wheels: run 'make gpu-pack' where the network is, and bring out/gpu along to here." >&2
  exit 2
fi
# Beside what the machine has, and without dependencies: its torch is its own, which nothing may replace.
test -d "$work/site" || python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
  --target "$work/site" "$work"/wheels/*.whl
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
python3 -c 'import torch, triton; print(f"torch {torch.__version__}, triton {triton.__version__}")'

linzoo=(python3 -c 'from linzoo.cli.main import main; main()')
bench=("${linzoo[@]}" bench)
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
report() { within 30 "$1.txt" "${bench[@]}" report "$out/$1.csv" --plot "$out/$1.png"; }

# kernels SECONDS OPTIONS...: attention over q, k, v. A process of its own each: a kernel that crashes takes no other along.
kernels() { within "$1" kernels.txt "${bench[@]}" kernels --out "$out/kernels.csv" "${@:2}"; }

run_part() {
  local ours=(--provider triton --provider torch) published=(--provider eager --provider eager-compiled)
  local softmax=(--provider sdpa-flash --provider sdpa-cudnn)
  local barred=(--shape sdxl-0-1024px-b2 --shape '*-4096px-b2' --shape '*-16384px-b2')
  case $1 in
    kernels)
      kernels 320 "${barred[@]}" --mode forward --mode graph "${ours[@]}" "${published[@]}" "${softmax[@]}"
      kernels 180 "${barred[@]}" --mode backward "${ours[@]}" --provider eager --provider sdpa-flash
      report kernels
      ;;
    layer)
      within 500 layer.txt "${bench[@]}" layer --out "$out/layer.csv" --shape 'sd*' \
        --form official --form mounted --form folded --form softmax
      report layer
      ;;
    tests)
      local parallel=()
      ! python3 -c 'import xdist' 2> /dev/null || parallel=(-n 8)
      within 540 tests.txt python3 -m pytest -m gpu -W default -p no:cacheprovider "${parallel[@]}" \
        tests/kernels tests/benchmarks
      ;;
    peers)
      # Everyone takes turns here too: ratios are of one run. The causal one is alone: nothing is compared with it.
      local shapes=(--shape 2x65536x10x64 --shape fbi_la-16384 --shape 1x65536x5x64)
      kernels 380 "${shapes[@]}" --mode forward --mode backward "${ours[@]}" "${published[@]}" "${softmax[@]}" \
        --provider fbi_la-ready --provider fbi_la
      kernels 120 "${shapes[@]}" --mode forward --provider fla
      report kernels
      ;;
    more)
      kernels 500 --shape '*-1024px-b2' --shape '*-2048px-b2' --shape '*-512px-b2' --shape '*-b1' --shape 'fbi_la-[!1]*' \
        --mode forward --mode graph --mode backward "${ours[@]}" --provider eager --provider sdpa-flash
      report kernels
      ;;
    distill)
      within 180 distill.txt "${bench[@]}" distill speed --size sd15 --turns 3 --results "$out"
      within 360 distill.txt "${bench[@]}" distill speed --size sdxl --turns 2 --results "$out"
      ;;
    validate)
      within 200 validate.txt "${linzoo[@]}" validate mini-linfusion --teacher mini --suite quality --report "$out/validate"
      within 360 validate.txt "${linzoo[@]}" validate mini-linfusion --teacher mini --suite speed \
        --speed-sizes 0.5,1,2,4,8,16 --report "$out/validate-speed"
      ;;
    tune)
      within 560 tune.txt python3 -m linzoo_benchmarks.tune --out "$out"
      ;;
    mini)
      python3 -m linzoo_recipes.mini all --out "$work" --weights "$out/weights"
      cp "$work"/vae/report.json "$out/vae-report.json"
      cp "$work"/unet/log.jsonl "$out/unet-log.jsonl"
      ;;
    all)
      for each in kernels layer tests peers more; do run_part "$each"; done
      ;;
    *)
      echo "no part '$1'; there are: kernels, layer, tests, peers, more, all, distill, validate, tune, mini" >&2
      exit 2
      ;;
  esac
}

run_part "$part"
exit "$failed"
