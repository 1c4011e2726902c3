#!/bin/bash
# Make a real bundle and run it: demo.sh PYSANDBOX run
# Compare how backends and other runtimes run it: demo.sh PYSANDBOX compare [RUNSC]
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

make_bundle() {
    show mkdir bundle
    show python3 "$images/busybox.py" bundle/rootfs
    show pysandbox spec --bundle bundle
    show python3 "$images/demo.py" bundle
}

compare() {
    say "Side by side: the same bundle with each backend, and with other runtimes"
    # Two of five groups of figures, so that it is short; docs/comparison.md tells of all. It may not fail the demo.
    local words=(compare --quick --only life,memory ${1:+--runtime "runsc=$1"} bundle)
    printf '%s$ pysandbox %s%s\n' "$cyan" "${words[*]}" "$plain"
    timeout --signal INT --kill-after 20 180 "$pysandbox" "${words[@]}" </dev/null ||
        echo "the comparison ended early: see above"
}

cd "$work"
if [ "$2" = compare ]; then
    make_bundle >/dev/null
    compare "${3:-}"
    exit
fi

say "A bundle: a root file system of one static busybox, and a config.json"
make_bundle

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

say "Yours: $pysandbox run BUNDLE"
