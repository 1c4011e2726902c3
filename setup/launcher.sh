#!/bin/bash
# Print the script that runs a command cold: launcher.sh INTERPRETER PATH...
set -euo pipefail
interpreter=$1
shift
paths=$("$interpreter" -IS -c 'import sys; print(sys.argv[1:])' "$@")
template=$(<"$(dirname "$0")/../runtime_api/launcher.in")
template=${template//@PYTHON@/"$interpreter"}
printf '%s\n' "${template//@PATHS@/"$paths"}"
