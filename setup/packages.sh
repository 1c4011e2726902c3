#!/bin/bash
# Debian packages that pysandbox needs, and the cargo to build with.
#
#   packages.sh build MSRV      install what `make setup` needs
#   packages.sh test yes|no     install what the tests need, with or without docker, podman and containerd
#   packages.sh microvm         install what builds a guest image, and what runs one
#   packages.sh compared        install whom the demo compares with: runc
#   packages.sh soak            install what the long tests need
#   packages.sh cargo MSRV      print a cargo whose rustc is at least MSRV
#   packages.sh static FILE...  fail unless every FILE is a static executable
set -euo pipefail

BUILD=(python3-venv ca-certificates gcc libc6-dev libseccomp2 busybox-static)
TEST=(git runc procps iproute2 util-linux strace chromium)
DAEMONS_LIST=$(dirname "$0")/../tests/integration/packages.txt
# The compiler's are the ones that `pysandbox image build` names where they are missing.
MICROVM=(linux-source make gcc libc6-dev binutils flex bison bc perl xz-utils libelf-dev cpio qemu-system-x86)
SOAK=(mmdebstrap mount e2fsprogs qemu-system-x86 qemu-utils)

at_least() { # at_least HAVE WANT
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

find_cargo() { # find_cargo MSRV
    local cargo rustc version
    for cargo in "$(command -v cargo || true)" /usr/bin/cargo; do
        rustc=${cargo%cargo}rustc
        [ -x "$cargo" ] && [ -x "$rustc" ] || continue
        version=$("$rustc" --version 2>/dev/null | cut -d ' ' -f 2) || continue
        at_least "$version" "$1" || continue
        echo "$cargo"
        return
    done
    return 1
}

is_installed() {
    dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

# Debian 12's rustc is 1.63; its rustc-web, kept recent for browsers, is what builds the executor there.
rust_packages() { # rust_packages MSRV
    local name version
    for name in "" -web; do
        version=$(apt-cache policy "rustc$name" 2>/dev/null | sed -n 's/^ *Candidate: *//p')
        if [ -n "$version" ] && [ "$version" != "(none)" ] && at_least "$version" "$1"; then
            echo "rustc$name cargo$name"
            return
        fi
    done
    echo "no Debian package of rustc $1 or later here; install one with rustup and put cargo on PATH" >&2
    return 1
}

install() {
    local missing=() name
    for name in "$@"; do is_installed "$name" || missing+=("$name"); done
    if [ ${#missing[@]} = 0 ]; then
        echo "      all there: $*"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "needs root once, for: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "      installing: ${missing[*]}"
    # RUNLEVEL=1: invoke-rc.d starts no daemon of ours; the tests start their own on private sockets.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
}

need_apt() {
    command -v apt-get >/dev/null || {
        echo "not a Debian: install the equivalents of ${BUILD[*]} and a recent Rust, then: mkdir -p .stamps && touch .stamps/packages" >&2
        exit 1
    }
}

update_lists() {
    # Lists younger than a day are good enough; a fresh machine has none.
    if [ "$(id -u)" = 0 ] && ! find /var/lib/apt/lists -name '*Packages*' -mtime -1 2>/dev/null | grep -q .; then
        echo "      reading the package lists"
        apt-get update -qq </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
    fi
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

case $1 in
build)
    need_apt
    update_lists
    packages=("${BUILD[@]}")
    if cargo=$(find_cargo "$2"); then
        echo "      using $cargo ($("${cargo%cargo}rustc" --version))"
    else
        read -r -a rust < <(rust_packages "$2")
        packages+=("${rust[@]}")
    fi
    install "${packages[@]}"
    ;;
test)
    need_apt
    update_lists
    packages=("${TEST[@]}")
    if [ "$2" = yes ]; then
        # Not every release has all of them: Debian 13 has taken docker-cli out of docker.io.
        while read -r name; do
            if apt-cache show "$name" >/dev/null 2>&1; then packages+=("$name"); fi
        done < <(grep -v '^#' "$DAEMONS_LIST")
    fi
    install "${packages[@]}"
    ;;
microvm)
    need_apt
    update_lists
    packages=("${MICROVM[@]}")
    # Debian 12 has virtiofsd in qemu-system-common, which qemu-system-x86 brings along.
    if apt-cache show virtiofsd >/dev/null 2>&1; then packages+=(virtiofsd); fi
    install "${packages[@]}"
    ;;
compared)
    need_apt
    update_lists
    install runc
    ;;
soak)
    need_apt
    update_lists
    install "${SOAK[@]}"
    ;;
cargo)
    find_cargo "$2" || { echo "no cargo with rustc $2 or later" >&2; exit 1; }
    ;;
static)
    # A static executable asks for no interpreter: it has no PT_INTERP program header.
    for file in "${@:2}"; do
        if LC_ALL=C grep -aq '/lib64/ld-linux\|/lib/ld-linux\|/lib/ld-musl' <(head -c 4096 "$file"); then
            echo "$file is linked dynamically: it could not run where no library is, or one of another's" >&2
            exit 1
        fi
    done
    ;;
*)
    echo "usage: packages.sh build|test|microvm|compared|soak|cargo|static ARGUMENT" >&2
    exit 1
    ;;
esac
