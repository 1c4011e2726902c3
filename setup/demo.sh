#!/bin/bash
# Make a real bundle and run it: demo.sh PYSANDBOX
set -euo pipefail

pysandbox=$(realpath "$1")
python=$(sed -n '1s/^#!\(.*\) -[^ ]*$/\1/p' "$pysandbox-cold")
images=$(realpath "$(dirname "$0")/../images")
id=demo-$$

work=$(mktemp -d /tmp/pysandbox-demo.XXXXXX)
cleanup() {
    "$pysandbox" --root "$work/state" delete --force "$id" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT

# What the commands below call: the program under its short name, with a state directory of the demo's own.
pysandbox() { "$pysandbox" --root "$work/state" "$@"; }
python3() { "$python" "$@"; }

bold='' cyan='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' cyan=$'\e[36m' plain=$'\e[0m'; fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Echo a command, then run it.
show() {
    printf '%s$ %s%s\n' "$cyan" "$*" "$plain"
    "$@"
}

say "A bundle: a root file system of one static busybox, and a config.json"
cd "$work"
show mkdir bundle
show python3 "$images/busybox.py" bundle/rootfs
show pysandbox spec --bundle bundle
show python3 "$images/demo.py" bundle

say "pysandbox run: what the container sees"
show pysandbox run bundle

say "The same in the background: create, start, state, exec, kill, delete"
show python3 "$images/demo.py" bundle sleep 600
show pysandbox create --bundle bundle "$id" </dev/null
show pysandbox start "$id"
show pysandbox state "$id"
echo
show pysandbox exec "$id" ps -o pid,user,args
show pysandbox list
show pysandbox kill "$id" KILL
for _ in $(seq 100); do
    if pysandbox state "$id" | grep -q '"status": *"stopped"'; then break; fi
    sleep 0.05
done
show pysandbox delete "$id"

say "Side by side: the same bundle with each backend, and with the runtimes of this machine"
show python3 "$images/demo.py" bundle
# Two of five groups of figures, so that it is short; docs/comparison.md tells of all. It may not fail the demo.
compare=(compare --quick --only life,memory bundle)
printf '%s$ pysandbox %s%s\n' "$cyan" "${compare[*]}" "$plain"
timeout --signal INT --kill-after 20 50 "$pysandbox" "${compare[@]}" </dev/null || echo "the comparison ended early: see above"

say "Done. Yours: $pysandbox run BUNDLE"
