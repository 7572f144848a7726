#!/usr/bin/env bash
# Goal: geb says what it can do, refuses what it cannot with the exit code for it, names the fix.
# Method: each wrong use, its exit code, and a word that its message must have.
set -uo pipefail
geb=$GEB_BUILD/tools/geb
GEB_DIR=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")") || exit 1
export GEB_DIR
unset GEB_BUS
trap 'rm -rf -- "$GEB_DIR"' EXIT
trap 'exit 1' INT TERM
failed=0

# expect CODE WORD STREAM ARGUMENT...: STREAM, out or err, has WORD; the other one is empty.
expect()
{
    local code=$1 word=$2 stream=$3 got out err
    shift 3
    out=$("$geb" "$@" 2>"$GEB_DIR/.err")
    got=$?
    err=$(<"$GEB_DIR/.err")
    rm -f -- "$GEB_DIR/.err"
    local text=$out other=$err
    [[ $stream == out ]] || { text=$err; other=$out; }
    if ((got == code)) && [[ $text == *"$word"* && -z $other ]]; then
        printf 'OK    geb %s: exit %d\n' "$*" "$got"
    else
        printf 'FAIL  geb %s: exit %d, expected %d and "%s"; it says: %s%s\n' "$*" "$got" "$code" \
            "$word" "$out" "$err"
        failed=1
    fi
}

expect 0 'Examples:' out --help
expect 0 'geb ' out --version
expect 2 'Usage' err
expect 2 'no subcommand' err frobnicate
for name in serve record replay dlq call; do
    expect 2 "geb: $name: not built yet" err "$name"
done
expect 0 'Usage' out demo --help
expect 0 'Usage' out rm --help
expect 2 'Usage' err rm
expect 2 'Usage' err rm one two
expect 3 'geb create nowhere' err rm nowhere
expect 3 "the buses in $GEB_DIR:  geb ls" err rm nowhere
exit "$failed"
