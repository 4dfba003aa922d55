#!/usr/bin/env bash
# From a checkpoint to the table: generate, score, report.
#
#   eval/checkpoint_to_benchmark.sh CHECKPOINT [BENCHMARK] [section.key=value ...]
#
# CHECKPOINT  runs/NAME/checkpoints/step_000039   a training run's step (it is exported first)
#             runs/NAME/export                    a training run's export
#             path/to/folder                      any Hugging Face model folder
#             Qwen/Qwen3-8B                       a hub name
#             http://host:8000/v1                 an OpenAI-compatible endpoint
# BENCHMARK   a file in the v3 layout; default: the run's own, else data/mini/benchmark.json
#
# BASE=Qwen/Qwen3-8B     also asks this base model (a run's step or export has its own)
# VLLM_PYTHON=.../python the interpreter that has vLLM, where a GPU is at hand
#
# Everything lands in runs/<name>/, recipe.yaml included; the same command continues after a fault.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -x "$root/.venv/bin/toolgenesis-sft" ] && PATH="$root/.venv/bin:$PATH"

checkpoint="${1%/}"
shift
benchmark=""
if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then
    benchmark="$(realpath "$1")"
    shift
fi

quoted() { printf "'%s'" "${1//\'/\'\'}"; } # a YAML string
slug() { printf '%s' "$1" | tr -c 'A-Za-z0-9._-' '-' | sed 's/^[^A-Za-z0-9]*//'; }

# What serves the model: vLLM where there are a GPU and vLLM, else transformers.
engine="engine: transformers"
if nvidia-smi -L >/dev/null 2>&1; then
    if [ -n "${VLLM_PYTHON:-}" ]; then
        engine="engine: vllm"$'\n'"  engine_python: $(quoted "$VLLM_PYTHON")"$'\n'"  concurrency: 128"
    elif python -c 'import vllm' 2>/dev/null; then
        engine="engine: vllm"$'\n'"  concurrency: 128"
    fi
else
    engine="$engine"$'\n'"  concurrency: 12"
fi

# A step or an export of a training run: its own recipe, data and base model, in a new folder.
from_run() {
    local source="$1" part="$2"
    name="$(slug "$(basename "$source")-$part")"
    mkdir -p "runs/$name"
    cp "$source/config.json" "runs/$name/training_recipe.json"
    for shared in data base_model metrics.jsonl; do
        [ -e "$source/$shared" ] && ln -sfn "$source/$shared" "runs/$name/$shared"
    done
    {
        echo "base: training_recipe.json"
        echo "name: $name"
        [ -z "$benchmark" ] || echo "benchmark: $(quoted "$benchmark")"
        echo "generate:"
        echo "  $engine"
        [ -z "$benchmark" ] || echo "  scenarios: all"
    } >"runs/$name/recipe.yaml"
}

# Any other model: the model card's prompt and sampling, on every scenario.
from_model() {
    local start="$1"
    name="$(slug "$(basename "$checkpoint")-on-$(basename "${benchmark:-mini}" .json)")"
    mkdir -p "runs/$name"
    {
        echo "name: $name"
        [ -z "$benchmark" ] || echo "benchmark: $(quoted "$benchmark")"
        echo "model:"
        echo "  name_or_path: $(quoted "$start")"
        echo "generate:"
        cat
    } >"runs/$name/recipe.yaml"
}

case "$checkpoint" in
http://* | https://*)
    from_model "${BASE:-$checkpoint}" <<EOF
  engine: endpoint
  endpoint_url: $(quoted "$checkpoint")
EOF
    ;;
*)
    folder="$(realpath -q "$checkpoint" || true)"
    above="$(dirname "$folder")"
    if [ "$(basename "$above")" = checkpoints ] && [ -f "$(dirname "$above")/config.json" ]; then
        if [ ! -f "$folder/COMPLETE" ]; then
            echo "error: CHECKPOINT = $checkpoint: is not finished (no COMPLETE); take an earlier step" >&2
            exit 2
        fi
        from_run "$(dirname "$above")" "$(basename "$folder")"
        mkdir -p "runs/$name/checkpoints"
        ln -sfn "$folder" "runs/$name/checkpoints/$(basename "$folder")"
        toolgenesis-sft export "runs/$name/recipe.yaml" "$@" --run "$name"
    elif [ "$(basename "$folder")" = export ] && [ -f "$above/provenance.json" ]; then
        from_run "$above" export
        ln -sfn "$folder" "runs/$name/export"
    else
        [ -d "$folder" ] && asked="$folder" || asked="$checkpoint"
        from_model "${BASE:-$asked}" <<EOF
  $engine
  model: $(quoted "$asked")
  compare_before_training: $([ -n "${BASE:-}" ] && echo true || echo false)
EOF
    fi
    ;;
esac

toolgenesis-sft generate "runs/$name/recipe.yaml" "$@" --run "$name"
toolgenesis-sft score "runs/$name/recipe.yaml" "$@" --run "$name"
toolgenesis-sft report "runs/$name/recipe.yaml" "$@" --run "$name"
echo "runs/$name/report.html" >&2
