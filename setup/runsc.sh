#!/bin/bash
# gVisor's runsc, to compare with: runsc.sh DIRECTORY prints where it is, and builds it there first if need be.
#
# No Debian package has it. Its authors keep a branch that `go install` takes; the version is pinned, and Go checks its
# sum and those of all that it needs. Without Go 1.21 or later it is left out, which costs one row of a comparison.
set -euo pipefail

VERSION=v0.0.0-20260905035102-160fafc42237
directory=$1

if command -v runsc; then
    exit 0
fi
if [ ! -x "$directory/runsc" ]; then
    version=$(go env GOVERSION 2>/dev/null || true)
    if [ "$(printf 'go1.21\n%s\n' "${version:-go0}" | sort -V | head -n 1)" != go1.21 ]; then
        echo "runsc is left out: no Go 1.21 or later to build it with (golang-go of Debian 13 is one)" >&2
        exit 1
    fi
    echo "      building runsc with $version: some minutes, once" >&2
    mkdir -p "$directory"
    work=$(mktemp -d "$directory/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    GOBIN=$work CGO_ENABLED=0 go install -ldflags '-s -w' "gvisor.dev/gvisor/runsc@$VERSION" >&2
    mv "$work/runsc" "$directory/runsc"
fi
echo "$directory/runsc"
