#!/bin/bash
# Installs what the tests need, runs every test of the workspace, and closes with one line of counts:
#
#     N passed, N failed, N skipped
#
# A test that cannot run here appends "name: reason" to the file $BULKHEAD_SKIP_LOG and returns. cargo takes that for a
# pass; here it counts as skipped, and the reason is shown. With BULKHEAD_COUNTS=FILE the closing line goes to FILE.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
work=$(mktemp -d build/test.XXXXXX)
running=
trap 'kill $running 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
export BULKHEAD_SKIP_LOG=$PWD/$work/skipped
export BULKHEAD_TEST_GUEST=$PWD/build/guest
: >"$BULKHEAD_SKIP_LOG"
: >"$work/log"

# The log is shown as it grows, and by a process of its own: a program that a test forgot and that still holds the
# output would keep a pipe open, and us waiting, for ever.
sleep infinity &
running=$!
tail -q -f -s 0.1 --pid="$running" "$work/log" &
shown=$!

status=0
run() {
    [ "$status" -ne 0 ] || "$@" </dev/null >>"$work/log" 2>&1 || status=1
}

tools/prepare.sh || status=1
# libvirt's own programs, whose tests say so when they are missing. None of their services is wanted here.
tools/packages.sh --no-services virsh=libvirt-clients libvirt-daemon-system libvirt-daemon-driver-qemu python3-libvirt libsasl2-modules \
    libsys-virt-perl libvirt-dbus dbus-daemon dbus-bin polkitd openssh-server openssh-client nc=netcat-openbsd prometheus-libvirt-exporter ||
    echo "test: some of libvirt's own programs are missing; the tests that need them are skipped"
# A realm of Kerberos, and what it takes to build a client for one.
kerberos=yes
tools/packages.sh --no-services libkrb5-dev libclang-dev krb5-kdc krb5-admin-server krb5-user libsasl2-modules-gssapi-mit ||
    kerberos=
# The tests of whole programs start the programs themselves, which cargo does not build for a test.
run cargo build ${CI:+--locked} --workspace --bins
# A test that hangs must not take the answer of the others with it.
run ${CI:+timeout -k 10 1800} cargo test ${CI:+--locked} --workspace --no-fail-fast
# A feature that no other build has, because it links with a library that a machine need not have.
unbuilt=0
if [ -n "$kerberos" ]; then
    run ${CI:+timeout -k 10 600} cargo test ${CI:+--locked} --workspace --features bulkhead-tests/gssapi --test gssapi
else
    unbuilt=$(grep -c '^#\[test\]' tests/tests/gssapi.rs)
fi

kill "$running"
wait "$shown" || :

# Sums one column of cargo's "test result: ok. 3 passed; 0 failed; 1 ignored; ...", colours or not.
sum() {
    awk -v column="$1" '
        /^test result: / && match($0, "[0-9]+ " column) { total += substr($0, RSTART, RLENGTH) }
        END { print total + 0 }
    ' "$work/log"
}

sort -u "$BULKHEAD_SKIP_LOG" >"$work/skips"
unable=$(cut -d : -f 1 "$work/skips" | sort -u | grep -c . || :)
passed=$(($(sum passed) - unable))
failed=$(sum failed)
# Those that were not built did not pass either.
skipped=$(($(sum ignored) + unable + unbuilt))
[ "$unbuilt" -eq 0 ] || echo "gssapi ($unbuilt tests): packages of Kerberos are missing" >>"$work/skips"

# A build that breaks, or a test program that dies, leaves no count behind; nor may a run without a test look well.
if [ "$failed" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$passed" -le 0 ]; }; then
    failed=1
fi
[ "$passed" -ge 0 ] || passed=0

sed 's/^/skipped: /' "$work/skips"
counts="$passed passed, $failed failed, $skipped skipped"
if [ -n "${BULKHEAD_COUNTS:-}" ]; then
    echo "$counts" >"$BULKHEAD_COUNTS"
else
    echo "$counts"
fi
[ "$failed" -eq 0 ]
