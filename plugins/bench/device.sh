#!/bin/sh
# What a card can tell about the kernels, in three commands of a few minutes each, on a machine that has
# the CUDA toolkit, torch and torchvision, and no network. Results are written to OUT as they come.
#
#   plugins/bench/device.sh check OUT     the kernels are right: property tests, alone and under each
#                                         sanitizer, and the quick table; lanes beside torch
#   plugins/bench/device.sh table OUT     the full table of times
#   plugins/bench/device.sh profile OUT   Nsight Compute on each kernel
#   plugins/bench/device.sh lanes OUT     the lanes alone, a part of check
#   plugins/bench/device.sh --dry-run     here, without a card: is all of it ready?
set -eu
here=$(cd "$(dirname "$0")" && pwd)
plugins=$(dirname "$here")
python=${PYTHON:-python3}

said() {
    echo "device.sh: $*" >&2
}

# The compute capability of the card, as 90.
capability() {
    "$python" -c 'import torch; a, b = torch.cuda.get_device_capability(); print(10 * a + b)'
}

# One library for this card in OUT/build; a second command finds it there.
build() {
    if [ ! -f "$out/build/libdegmix_kernels.so" ]; then
        "$python" - "$out/build" "$(capability)" <<'EOF'
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd() / "plugins" / "bench"))
from measure import build

print(build(Path(sys.argv[1]), int(sys.argv[2])))
EOF
    fi
}

facts() {
    { date -u; nvidia-smi; nvcc --version; "$python" -c 'import torch; print(torch.__version__)'; } \
        > "$out/facts.txt" 2>&1 || true
}

bench() {
    "$python" "$here/gpu.py" --library "$out/build/libdegmix_kernels.so" "$@"
}

# Lanes over the real driver: needs PyCUDA or cuda-bindings.
lanes() {
    build
    timeout 150 "$python" "$here/lanes.py" --library "$out/build/libdegmix_kernels.so" --json "$out/lanes.json" \
        > "$out/lanes.txt" 2>&1 && status=0 || status=$?
    cat "$out/lanes.txt"
    return "$status"
}

check() {
    facts
    build
    lanes || said "lanes: exit $?, see $out/lanes.txt"
    bench --quick --json "$out/quick.json" 2>&1 | tee "$out/quick.txt"
    property_tests "" > "$out/tests.txt" 2>&1 || said "property tests: exit $?"
    tail -n 3 "$out/tests.txt"
    # The tools make a launch many times slower, so they run side by side and look at our kernels alone. racecheck
    # is the slowest, and has the tests in parts.
    for tool in memcheck synccheck initcheck; do
        sanitize "$tool" all "" &
    done
    sanitize racecheck groups "groups_of_warps" &
    sanitize racecheck clusters "blocks_of_a_cluster" &
    sanitize racecheck tiles "every_tile or torchvision or int8_is_exact" &
    sanitize racecheck others "not (groups_of_warps or blocks_of_a_cluster or every_tile or torchvision or int8_is_exact)" &
    wait
}

# The tests that the emulated kernels pass, on this card: those that an expression selects, or all, and under the
# command that is given.
property_tests() {
    which=$1
    shift
    DEGMIX_KERNELS="$out/build/libdegmix_kernels.so" PYTHONPATH="$PWD:$PWD/tests/plugins" \
        "$@" "$python" -m pytest --noconftest -o addopts= -q -p on_card -p no:cacheprovider -k "$which" \
        tests/plugins/test_kernels.py tests/plugins/test_fit_image.py
}

# A tool, a name, and which tests. Every tensor has an allocation of its own, so that the tool knows where an array
# ends.
sanitize() {
    found=0
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 property_tests "$3" timeout 200 compute-sanitizer --tool "$1" \
        --kernel-name kns=degmix --error-exitcode 9 > "$out/$1_$2.txt" 2>&1 || found=$?
    said "$1, $2: exit $found; $(grep ' SUMMARY:' "$out/$1_$2.txt" || echo no summary)"
}

table() {
    facts
    build
    bench --json "$out/table.json" 2>&1 | tee "$out/table.txt"
}

profile() {
    build
    for case in demt mixer dcnv2 frame; do
        timeout 120 ncu --profile-from-start off --set full --clock-control none --print-details all \
            --kernel-name-base mangled --kernel-name regex:degmix "$python" "$here/gpu.py" \
            --library "$out/build/libdegmix_kernels.so" --quick --profile "$case" \
            > "$out/ncu_$case.txt" 2>&1 || said "ncu $case: exit $?, see $out/ncu_$case.txt"
    done
}

# All that can be known without a card: tools, compilation for a card, and every case in emulation.
dry_run() {
    missing=0
    for tool in nvcc "$python" cmake; do
        command -v "$tool" > /dev/null || { said "no $tool"; missing=1; }
    done
    "$python" -c 'import torch, torchvision' || missing=1
    for tool in nvidia-smi compute-sanitizer ncu; do
        command -v "$tool" > /dev/null || said "no $tool here; the card's machine needs it"
    done
    [ "$missing" = 0 ] || { said "not ready"; return 1; }
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    "$python" - "$out/build" <<'EOF'
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd() / "plugins" / "bench"))
from measure import build

print(build(Path(sys.argv[1]), 90))
EOF
    emulated=${EMULATED:-}
    if [ -z "$emulated" ]; then
        cmake -S "$plugins" -B "$out/emulated" -DDEGMIX_EMULATION=ON -DDEGMIX_CUDA=OFF \
            -DDEGMIX_CPU_OPS=OFF > "$out/cmake.txt"
        cmake --build "$out/emulated" > "$out/cmake.txt"
        emulated=$out/emulated/libdegmix_kernels_emulated.so
    fi
    "$python" "$here/gpu.py" --emulated "$emulated" --json "$out/small.json"
    "${CC:-cc}" -shared -fPIC -Wl,-soname,libcuda.so.1 "$plugins/../tests/stand_ins/libcuda.c" \
        -o "$out/libcuda.so.1" -lpthread -ldl
    "$python" "$here/lanes.py" --stand-in "$out/libcuda.so.1" --library "$emulated"
    said "ready: check, table, profile and lanes need a card"
}

cd "$plugins/.."
command=${1:-}
case $command in
    check | table | profile | lanes)
        out=${2:?device.sh: give a folder for the results}
        mkdir -p "$out"
        out=$(cd "$out" && pwd)
        "$command"
        ;;
    --dry-run) dry_run ;;
    *)
        said "expected check, table, profile or lanes with a folder, or --dry-run"
        exit 2
        ;;
esac
