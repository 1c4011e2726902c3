#!/bin/bash
# Run a command in a fresh Debian that has only git, make and python3: clean_debian.sh SUITE DIRECTORY COMMAND...
#
# DIRECTORY keeps the base system between runs (SUITE.tar); the unpacked copy lives as long as the command. The
# repository is cloned to /src in it, committed state only. Mounts and processes are in namespaces of their own and end
# with the command. Network settings (resolver, apt's, certificates) are this host's.
set -euo pipefail

suite=$1
directory=$(realpath "$2")
shift 2
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
root=$directory/$suite

if [ ! -e "$root.tar" ]; then
    echo "clean_debian: making $root.tar"
    mmdebstrap --quiet --variant=minbase --mode=root --include=git,make,python3,ca-certificates "$suite" "$root.new.tar" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    mv "$root.new.tar" "$root.tar"
fi

rm -rf --one-file-system "$root"
mkdir "$root"
trap 'rm -rf --one-file-system "$root"' EXIT
tar -C "$root" -xf "$root.tar"
git -c safe.directory='*' clone --quiet --no-hardlinks "$repository" "$root/src"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
if [ -n "${CA_BUNDLE:=$([ -e /etc/ssl/certs/ca-certificates.crt ] && echo /etc/ssl/certs/ca-certificates.crt)}" ]; then
    cp -L "$CA_BUNDLE" "$root/etc/ssl/certs/ca-certificates.crt"
fi

# pivot_root, not chroot: a container's own pivot_root needs a root that is a mount.
status=0
unshare --mount --pid --fork --kill-child --propagation private bash -euo pipefail -c '
    root=$1
    shift
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    cd "$root"
    pivot_root . .
    umount -l .
    cd /src
    exec env -i HOME=/root TERM=dumb LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
' clean_debian "$root" "$@" || status=$?
exit "$status"
