#!/usr/bin/env bash
# Make the two environments and find the sandbox. Usage: launch/setup.sh [dev|browser|slurm]
#   .venv         the harness: training, scoring, serving (with any argument: the tests' tools too)
#   .venv-server  what generated servers run with (eval/server_runtime.txt)
# A stamp in .setup/ names the inputs it was made from; a second call does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose="${1:-demo}"
mode=dev
[ "$purpose" = demo ] && mode=demo
mkdir -p .setup

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: Python 3.11 or newer is needed; install it, or set PYTHON=/path/to/python3" >&2
    exit 2
}

stamp_is() { [ -f ".setup/$1" ] && [ "$(cat ".setup/$1")" = "$2" ]; }

# System packages: bubblewrap runs untrusted servers, g++ compiles one DeepSpeed operator.
missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v g++ >/dev/null || missing+=(g++)
if [ "$mode" = dev ]; then
    command -v shellcheck >/dev/null || missing+=(shellcheck)
fi
if [ "$purpose" = browser ]; then
    command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
fi
if [ "$purpose" = slurm ]; then
    command -v slurmctld >/dev/null || missing+=(slurm-wlm munge)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing ${missing[*]}" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    else
        echo "setup: system packages are missing; run: sudo apt-get install -y ${missing[*]}" >&2
        exit 2
    fi
fi

inputs="$(cat pyproject.toml constraints.txt launch/setup.sh | sha256sum | cut -d' ' -f1)"
if ! stamp_is dev "$inputs" && ! stamp_is "$mode" "$inputs"; then
    echo "setup: making .venv ($mode), a few minutes" >&2
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    torch="$(grep -E '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$torch"
    extras="build,train,score,serve"
    [ "$mode" = dev ] && extras="$extras,dev"
    DS_BUILD_OPS=0 .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -c constraints.txt -e ".[$extras]"
    echo "$inputs" >".setup/$mode"
fi

inputs="$(sha256sum eval/server_runtime.txt | cut -d' ' -f1)"
if ! stamp_is server "$inputs"; then
    echo "setup: making .venv-server" >&2
    [ -x .venv-server/bin/python ] || "$(find_python)" -m venv .venv-server
    .venv-server/bin/python -m pip install --quiet --disable-pip-version-check -r eval/server_runtime.txt
    echo "$inputs" >.setup/server
fi
