#!/usr/bin/env bash
# Everything to be seen on a machine with a GPU, in under 8 minutes: builds, tests, sanitizes and
# measures. Goes on where a step fails, and ends with the exit status of each.
#
#   bash benchmarks/gpu_check.sh FOLDER       what is measured is written to FOLDER
#
# Needs a CUDA PyTorch, nvcc, ninja, pytest and hypothesis; no network.
set -uo pipefail
out=$(mkdir -p "${1:?a folder to write to}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
summary=()

# step NAME SECONDS COMMAND...: runs it within so many seconds, its output in FOLDER/NAME.log.
step() {
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  summary+=("$name: exit status $? after $((SECONDS - begin)) s: $(tail -n 1 "$out/$name.log")")
  echo "${summary[-1]}"
}

# What the emulated device has shown before (csrc/tests/cuda/emulation.h says what it cannot), from
# its last run in a checkout: cmake --preset release, build and ctest in csrc.
echo "=== shown without a GPU, by the native tests on an emulated device"
if ls build/native-release/test_emulation >/dev/null 2>&1; then
  for test in build/native-release/test_*; do
    timeout 60 "$test" | grep -E 'emulated device|planted|beyond 2\^31|FAILED' | sed "s|^|$(basename "$test"): |"
  done
else
  echo "not built here; in a checkout: (cd csrc && cmake --preset release -DXAIFAST_CUDA=OFF &&" \
    "cmake --build --preset release)"
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >"$out/gpu.csv"
step build 120 pip install --no-build-isolation --no-deps -e .
step facts 15 python -m xaifast
step tests 110 python -m pytest -q --maxfail=20 tests/ops tests/rules -k cuda
for tool in memcheck racecheck; do
  step $tool 40 compute-sanitizer --tool $tool --error-exitcode 1 \
    python -m pytest -q tests/ops/test_relevance.py tests/ops/test_windows.py -k "cuda and float32"
done
step kernels 35 python -m benchmarks.kernels --device cuda --json "$out/kernels.json"
step lrp 40 python -m benchmarks.lrp --device cuda --batches 1 64 --rounds 3 --json "$out/lrp.json"
step attr 40 python -m benchmarks.attr --device cuda --rounds 1 --json "$out/attr.json"
step occlusion 35 python -m benchmarks.occlusion --device cuda --rounds 1 --json "$out/occlusion.json"
# Which convolutions shall run on a kernel of ours: the most usual first, in the time that is left.
# The table that it writes takes effect in xaifast/ops.
left=$((465 - SECONDS < 100 ? 465 - SECONDS : 100))
if [ "$left" -ge 30 ]; then
  step conv_table "$left" python -m benchmarks.fit_conv_table --rounds 3 --seconds $((left - 20)) \
    --out "$out/conv_measured.py" --json "$out/conv_table.json"
fi

printf '\n=== after %s s\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
