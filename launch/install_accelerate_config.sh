#!/usr/bin/env bash
# Make a configuration accelerate's default, so that this works with no flag at all:
#     accelerate launch recipes/qwen3_8b_sft.yaml
# Usage: launch/install_accelerate_config.sh [launch/accelerate_zero3.yaml]
# The file that was the default is kept beside it as default_config.yaml.before; one that is there
# already becomes .before.~1~.
set -euo pipefail
source="${1:-$(dirname "$0")/accelerate_zero3.yaml}"
if [ ! -f "$source" ]; then
    echo "install: $source is not there" >&2
    exit 2
fi
target="$(python -c 'from accelerate.commands.config.config_args import default_yaml_config_file; print(default_yaml_config_file)')"
if [ -e "$target" ] && ! cmp -s "$source" "$target"; then
    mv --backup=numbered "$target" "$target.before"
    echo "kept the former default as $target.before" >&2
fi
mkdir -p "$(dirname "$target")"
cp "$source" "$target"
echo "accelerate launch now takes $target" >&2
