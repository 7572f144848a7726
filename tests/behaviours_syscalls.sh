#!/usr/bin/env bash
# Goal: the number of system calls does not grow with the number of events.
# Method: strace -fc counts those of a run and of one with ten times its events; the longer run may
# have one more call per hundred events more. That is room for the sleeps of a machine that is busy
# with other things, and less than a call for each event, or for each batch of 32, would make.
set -uo pipefail
bench=${GEB_BENCH:-$GEB_BUILD/bench/geb-bench}
if [[ ! -x $bench ]] || ! strace -f true 2>/dev/null; then
    printf 'needs geb-bench, strace, and leave to trace\n'
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' INT TERM

# calls NAME COUNT: prints the number of system calls of that bench.
calls()
{
    strace -f -c -o "$work/counts" "$bench" "$1" --count "$2" --rounds 1 >"$work/out" 2>&1 || {
        cat -- "$work/out" >&2
        return 1
    }
    awk '$NF == "total" { print $4 }' "$work/counts"
}

few=100000
many=1000000
failed=0
for name in publish throughput; do
    if ! short=$(calls "$name" "$few") || ! long=$(calls "$name" "$many"); then
        printf 'FAIL  %s does not run\n' "$name"
        failed=1
        continue
    fi
    ((short > 0)) || { printf 'FAIL  strace counted nothing\n'; exit 1; }
    grown=$((long - short))
    limit=$(((many - few) / 100))
    verdict=OK
    ((grown <= limit)) || { verdict=FAIL; failed=1; }
    printf '%-5s %s: %d calls for %d events, %d for %d; %d more, at most %d\n' "$verdict" "$name" \
        "$short" "$few" "$long" "$many" "$grown" "$limit"
done
exit "$failed"
