#!/bin/bash
# Builds Bulkhead, makes a small Linux guest and boots it under the supervisors in qemu:///session. On a terminal the user
# is left at its console; otherwise the guest is asked for its name over the console, then shut down.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/prepare.sh
cargo build --release --workspace --bins

name=demo-$$
bulkhead=(target/release/bulkhead -c qemu:///session)
run=("${bulkhead[@]}" run --name "$name" --transient --memory 128MiB
    --kernel build/guest/vmlinuz --initrd build/guest/initrd.cpio.gz)
case $(uname -m) in
aarch64) run+=(--cmdline "console=ttyAMA0 quiet") ;;
*) run+=(--cmdline "console=ttyS0 quiet") ;;
esac

if [ -t 0 ] && [ -t 1 ]; then
    echo
    echo "Guest $name boots now. \"poweroff -f\" at its prompt ends it; ^] leaves the console and lets it run on."
    "${run[@]}"
    if "${bulkhead[@]}" domstate "$name" >/dev/null 2>&1; then
        echo "Guest $name runs on:"
        echo "    ${bulkhead[*]} console $name"
        echo "    ${bulkhead[*]} shutdown $name"
    fi
    exit 0
fi

# Without a terminal. Generous, for slow machines: an ordinary boot takes a few seconds.
limit=$((SECONDS + 180))

fail() {
    echo >&2
    echo "run: $*" >&2
    exit 1
}

ended=
work=$(mktemp -d)
clean_up() {
    rm -rf "$work"
    [ -z "$ended" ] || return 0
    "${bulkhead[@]}" destroy "$name" >/dev/null 2>&1 || :
    [ -z "$console" ] || kill "$console" 2>/dev/null || :
}
console=
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$work/keyboard"
exec {from}< <(exec "${run[@]}" <"$work/keyboard" 2>&1)
console=$!
exec {to}>"$work/keyboard"

# Shows the console until the given text has come, or, without one, until the console ends, and leaves what was shown in
# $seen. Carriage returns, and what a line editor tells or asks its terminal, are left out.
seen=
show_until() {
    local character rest status escape=
    seen=
    while [ -z "$1" ] || [[ $seen != *"$1" ]]; do
        rest=$((limit - SECONDS))
        [ "$rest" -gt 0 ] || fail "the console took too long to show ${1:-its end}"
        status=0
        IFS= LC_ALL=C read -r -d '' -n 1 -t "$rest" -u "$from" character || status=$?
        [ "$status" -le 128 ] || continue
        if [ "$status" -ne 0 ]; then
            [ -z "$1" ] || fail "the console ended before \"$1\" came"
            return 0
        fi
        case $escape$character in
        $'\r') ;;
        $'\e'*[[:alpha:]]) escape= ;;
        $'\e'*) escape+=$character ;;
        *) seen+=$character && printf '%s' "$character" ;;
        esac
    done
}

show_until 'guest# '
echo 'uname -a' >&"$to"
show_until $'\n'
show_until 'guest# '
echo
answer=${seen%$'\n'*}
[[ $answer == Linux\ * ]] || fail "the guest answered \"$answer\" to uname -a"

"${bulkhead[@]}" shutdown "$name" || fail "the guest cannot be asked to shut down"
show_until ''
wait "$console" || fail "bulkhead run exited with status $?"
ended=yes
! "${bulkhead[@]}" domstate "$name" >/dev/null 2>&1 || fail "$name is still there after its end"

echo
echo "run: the guest answered: $answer"
echo "run: and shut down as asked"
