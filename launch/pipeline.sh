#!/usr/bin/env bash
# The stages in order, one command each. Usage: launch/pipeline.sh RECIPE [section.key=value ...]
# Each stage reads and writes runs/<name>/; run it again after a fault and it continues.
set -euo pipefail
recipe="$1"
shift

toolgenesis-sft build "$recipe" "$@"     # data/: verified chat samples, data report, manifest
toolgenesis-sft plan "$recipe" "$@"      # what training will take: steps, tokens, memory, hours
toolgenesis-sft train "$recipe" "$@"     # checkpoints/, metrics.jsonl, loss.svg
toolgenesis-sft export "$recipe" "$@"    # export/: a Hugging Face folder, re-opened and checked
toolgenesis-sft generate "$recipe" "$@"  # predictions.jsonl: one server a scenario
toolgenesis-sft score "$recipe" "$@"     # scores.jsonl, evidence/: four layers in the sandbox
toolgenesis-sft report "$recipe" "$@"    # report.json, report.html, the table
