#!/usr/bin/env bash
# Goal: what `meson install` leaves is enough to build and run the two programs of the README.
# Method: install into a temporary DESTDIR; look at the header, the exports and geb.pc; build
# docs/examples/consumer.c and producer.c with pkg-config, once shared and once static; run each
# pair on a bus directory of its own until the consumer has printed the producer's event.
# usage: install.sh SOURCE BUILD
set -uo pipefail
source_root=$1
build=$2
work=$(mktemp -d) || exit 1
export GEB_DIR=
consumer=
failed=0

clean()
{
    [[ -z $consumer ]] || kill "$consumer" 2>/dev/null
    rm -rf -- "$work"
    [[ -z $GEB_DIR ]] || rm -rf -- "$GEB_DIR"
}
trap clean EXIT
trap 'exit 1' INT TERM

fail()
{
    printf 'FAIL  %s\n' "$*"
    failed=1
}

DESTDIR=$work/root meson install -C "$build" --no-rebuild --quiet >"$work/log" 2>&1 || {
    cat -- "$work/log"
    fail "meson install"
    exit 1
}
pc=$(find "$work/root" -name geb.pc)
library=$(find "$work/root" -name libgeb.so)
header=$(find "$work/root" -path '*/include/*' -type f -printf '%f ')
[[ -n $pc ]] || fail "no geb.pc"
[[ -n $library ]] || { fail "no libgeb.so"; exit 1; }
[[ $header == 'geb.h ' ]] || fail "installed headers: ${header:-none}, expected geb.h alone"

# The version nodes of the symbol map are absolute symbols; everything else must be public.
exports=$(nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }')
foreign=$(grep -v '^geb_' <<<"$exports")
[[ -n $exports ]] || fail "libgeb.so exports nothing"
[[ -z $foreign ]] || fail "libgeb.so exports ${foreign//$'\n'/ }"

export PKG_CONFIG_PATH=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$work/root
libraries=${library%/*}

# compile KIND NAME
compile()
{
    local flags=() source=$source_root/docs/examples/$2.c
    if [[ $1 == shared ]]; then
        mapfile -t flags < <(pkg-config --cflags --libs geb | xargs -n 1)
        flags+=("-Wl,-rpath,$libraries")
    else
        mapfile -t flags < <(pkg-config --static --cflags --libs geb | xargs -n 1)
        flags=("${flags[@]/#-lgeb/-l:libgeb.a}")
    fi
    "${CC:-cc}" -std=gnu11 -Wall -Wextra -Werror -o "$work/$2-$1" "$source" "${flags[@]}"
}

# run_pair KIND: the consumer runs until it is ended; the producer is repeated until there is a bus.
run_pair()
{
    local line='' tries
    GEB_DIR=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "$work")") || return
    mkfifo -- "$work/out-$1" || return
    stdbuf -oL "$work/consumer-$1" >"$work/out-$1" 2>"$work/errors" &
    consumer=$!
    exec 3<"$work/out-$1"
    for ((tries = 0; tries < 100; tries++)); do
        "$work/producer-$1" >>"$work/errors" 2>&1 && break
        sleep 0.05
    done
    IFS= read -r -t 10 line <&3
    kill "$consumer"
    wait "$consumer" 2>/dev/null
    consumer=
    exec 3<&-
    rm -rf -- "$GEB_DIR"
    GEB_DIR=
    [[ -n $line ]] && printf 'OK    %s: %s\n' "$1" "$line" && return
    cat -- "$work/errors"
    return 1
}

for name in consumer producer; do
    example=$source_root/docs/examples/$name.c
    [[ -f $example ]] || { fail "docs/examples/$name.c is not there"; exit 1; }
    lines=$(grep -cvE '^\s*(#include.*|//.*|/\*.*\*/)?\s*$' -- "$example")
    ((lines <= 15)) || fail "$name.c: $lines lines of user code, at most 15"
    while IFS= read -r line; do
        grep -qF -- "$line" "$source_root/README.md" || fail "README.md lacks of $name.c: $line"
    done < <(sed 's/^[[:space:]]*//; /^$/d' "$example")
done
for kind in shared static; do
    if compile "$kind" consumer && compile "$kind" producer; then
        run_pair "$kind" || fail "$kind: the consumer printed no event"
    else
        fail "$kind: the examples do not compile"
    fi
done
[[ $(ldd "$work/consumer-static" 2>/dev/null) != *libgeb* ]] || fail "the static program is not"
exit "$failed"
