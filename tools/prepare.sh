#!/bin/sh
# What `make run` and `make test` need before they begin: Rust, a linker, QEMU for this machine's architecture, and the
# guest in build/guest. Whatever else a caller needs is named as for packages.sh.
set -eu

tree=$(cd "$(dirname "$0")/.." && pwd)
case $(uname -m) in
aarch64) qemu="qemu-system-aarch64=qemu-system-arm" ;;
*) qemu="qemu-system-x86_64=qemu-system-x86" ;;
esac

"$tree/tools/toolchain.sh"
"$tree/tools/packages.sh" cc=gcc cc=libc6-dev "$qemu" "$@"
"$tree/tools/guest-image.sh" "$tree/build/guest"
