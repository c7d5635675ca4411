#!/bin/sh
# Makes a small Linux guest out of Debian's packages, without root and without installing anything:
#
#     tools/guest-image.sh OUTDIR
#
# leaves OUTDIR/vmlinuz (Debian's cloud kernel as it is) and OUTDIR/initrd.cpio.gz (busybox, guest/init and the modules
# of guest/modules). An image that is up to date is left alone, so a second call costs nothing and needs no network.
# Calls that run at once wait for each other.
set -eu
umask 022

tree=$(cd "$(dirname "$0")/.." && pwd)
[ $# -eq 1 ] || { echo "usage: $0 OUTDIR" >&2 && exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)

die() {
    echo "guest-image: $*" >&2
    exit 1
}

for tool in apt-get apt-cache dpkg dpkg-deb flock; do
    command -v "$tool" >/dev/null || die "$tool is missing: the guest is made of Debian packages, on Debian"
done

# What the image is made from; the packages are looked for anew only when one of these changes, or after `make clean`.
recipe=$(cat "$tree/guest/init" "$tree/guest/modules" "$tree/tools/guest-image.sh" | sha256sum)
up_to_date() {
    [ -s "$out/vmlinuz" ] && [ -s "$out/initrd.cpio.gz" ] && [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]
}

# Asked before the lock too: who may only read the image can use it.
! up_to_date || exit 0
exec 9>"$out/lock"
flock 9
! up_to_date || exit 0
# What a killed call left behind.
rm -rf "$out"/work.*

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# apt with the machine's sources and keys. The machine's package lists are used when they will do; otherwise lists of our
# own are fetched, which needs no root.
own_lists=
apt() {
    tool=$1
    shift
    if [ -n "$own_lists" ]; then
        set -- -o Dir::State::lists="$own_lists" -o Dir::Cache="$work/apt-cache" "$@"
    fi
    "$tool" -qq -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true "$@"
}

# The package that carries the kernel itself: linux-image-cloud-ARCH only depends on the current one.
kernel_package() {
    apt apt-cache --no-all-versions show "linux-image-cloud-$arch" 2>/dev/null |
        sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1
}

# Downloads into $work/packages, keeping nothing of an earlier try.
fetch() {
    rm -rf "$work/packages" && mkdir "$work/packages"
    kernel=$(kernel_package)
    [ -n "$kernel" ] && (cd "$work/packages" && apt apt-get download "$kernel" busybox-static)
}

arch=$(dpkg --print-architecture)
echo "guest-image: fetching Debian's cloud kernel and busybox"
if ! fetch 2>"$work/log"; then
    own_lists=$work/apt-lists
    mkdir -p "$own_lists/partial" "$work/apt-cache/archives/partial"
    # A source that does not answer is no reason to stop: the download tells whether what matters is there.
    apt apt-get update >>"$work/log" 2>&1 || :
    if ! fetch 2>>"$work/log"; then
        cat "$work/log" >&2
        die "cannot download linux-image-cloud-$arch and busybox-static from the Debian sources of this machine"
    fi
fi

for package in "$work"/packages/*.deb; do
    dpkg-deb -x "$package" "$work/unpacked"
done
cd "$work/unpacked"
# Newer releases of Debian keep both below usr.
busybox=$PWD/bin/busybox
[ -x "$busybox" ] || busybox=$PWD/usr/bin/busybox
base=$PWD
[ -d lib/modules ] || base=$PWD/usr
set -- boot/vmlinuz-*
if [ $# -ne 1 ] || [ ! -s "$1" ] || [ ! -x "$busybox" ]; then
    die "the packages do not hold one kernel and one busybox"
fi
vmlinuz=$PWD/$1
release=${1##*/vmlinuz-}

root=$work/root
for directory in bin dev etc lib/modules proc root sys tmp; do
    mkdir -p "$root/$directory"
done
install -m 755 "$tree/guest/init" "$root/init"
install -m 755 "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

# A line of modules.dep is "module: what it needs, nearest first"; read backwards it is an order to load in.
cd "$base/lib/modules/$release"
"$busybox" depmod -b "$base" "$release"
sed -e 's/#.*//' -e '/^ *$/d' "$tree/guest/modules" | while read -r module; do
    grep "/$module\.ko[^ ]*:" modules.dep || :
done | awk '{ sub(":", ""); for (i = NF; i > 0; i--) if (!seen[$i]++) print $i }' | while read -r module; do
    cp "$module" "$root/lib/modules/"
    echo "${module##*/}"
done >"$work/order"
mv "$work/order" "$root/lib/modules/order"

# The same inputs give the same bytes. The kernel's own built-in archive holds /dev/console, so no device node is needed.
cd "$root"
find . -exec touch -h -d @0 {} +
find . | LC_ALL=C sort | "$busybox" cpio -o -H newc -R 0:0 --renumber-inodes --ignore-devno 2>"$work/log" >"$work/initrd" ||
    { cat "$work/log" >&2 && die "cannot pack the initramfs"; }
gzip -9n "$work/initrd"

# The recipe goes last: an image whose making was interrupted is made again.
rm -f "$out/recipe"
mv "$vmlinuz" "$out/vmlinuz"
mv "$work/initrd.gz" "$out/initrd.cpio.gz"
printf '%s\n' "$recipe" >"$work/recipe"
mv "$work/recipe" "$out/recipe"
echo "guest-image: Linux $release with a busybox initramfs is in $out"
