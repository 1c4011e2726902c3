#!/bin/bash
# Make a real bundle and run it: demo.sh PYSANDBOX
set -euo pipefail

pysandbox=$(realpath "$1")
python=$(sed -n '1s/^#!\(.*\) -IS$/\1/p' "$pysandbox")
images=$(realpath "$(dirname "$0")/../images")
id=demo-$$

work=$(mktemp -d /tmp/pysandbox-demo.XXXXXX)
cleanup() {
    "$pysandbox" delete --force "$id" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

bold='' cyan='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' cyan=$'\e[36m' plain=$'\e[0m'; fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Echo a command, then run it.
show() {
    printf '%s$' "$cyan"
    printf ' %q' "$@"
    printf '%s\n' "$plain"
    "$@"
}

say "A bundle: a root file system of one static busybox, and a config.json"
cd "$work"
show mkdir bundle
show "$python" "$images/busybox.py" bundle/rootfs
show "$pysandbox" spec --bundle bundle
show "$python" "$images/demo.py" bundle

say "pysandbox run: what the container sees"
show "$pysandbox" run bundle

say "The same in the background: create, start, state, exec, kill, delete"
show "$python" "$images/demo.py" bundle sleep 600
show "$pysandbox" create --bundle bundle "$id" </dev/null >/dev/null
show "$pysandbox" start "$id"
show "$pysandbox" state "$id"
show "$pysandbox" exec "$id" ps -o pid,user,args
show "$pysandbox" list
show "$pysandbox" kill "$id" KILL
for _ in $(seq 100); do
    if "$pysandbox" state "$id" | grep -q '"status": *"stopped"'; then break; fi
    sleep 0.05
done
show "$pysandbox" delete "$id"

say "Done. Yours: $pysandbox run BUNDLE"
