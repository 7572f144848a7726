# The test suites of tools/dev, which sources this file: it uses root, build, scratch, say, die,
# listed, run, run_logged, setup, configure and release from there.
# shellcheck shell=bash disable=SC2154

ci_packages=(spin clang-14 libclang-rt-14-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    clang-format-14)

quick_suites=(unit stress crash behaviours workers hostile tools install)
ci_suites=(style portable model sanitize deep numa bridge)
not_built=(workers hostile numa bridge)

passed=0 failed=0 skipped=0 unbuilt=0
in_ci=0

# fail NAME: counts one failure, and tells it again at the end.
fail()
{
    printf 'FAIL  %s\n' "$1" | tee -a -- "$scratch/failures"
    failed=$((failed + 1))
}

skip()
{
    say "skipped: $1: $2"
    if ((in_ci)); then
        fail "$1: skipped under --ci"
    else
        skipped=$((skipped + 1))
    fi
}

# check NAME COMMAND...: one test.
check()
{
    local name=$1
    shift
    say "$name"
    if run "$@"; then
        printf 'OK    %s\n' "$name"
        passed=$((passed + 1))
    else
        fail "$name"
    fi
}

# Prints the tally of a test log as the last line, and what the crash suites count before it. Adds
# each failure, with the end of its output, to a second file.
read -r -d '' read_log <<'END'
import json, re, sys
count = {"passed": 0, "failed": 0, "skipped": 0}
kinds = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}
for line in open(sys.argv[1], errors="replace"):
    test = json.loads(line)
    kind = kinds.get(test["result"], "failed")
    count[kind] += 1
    if kind == "skipped":
        print("==> skipped: " + test["name"])
    output = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
    if kind == "failed":
        told = ["FAIL  %s: %s after %d s" % (test["name"], test["result"], test["duration"])]
        told += ["      " + said for said in output.splitlines() if said.strip()][-25:]
        open(sys.argv[2], "a").write("\n".join(told) + "\n")
    for found in output.splitlines():
        if re.search(r"\b[0-9]+ (instructions|kills|events), [0-9]+ failed", found):
            print(test["name"] + ": " + found.strip())
print(count["passed"], count["failed"], count["skipped"])
END

# meson_suites DIR SUITE... -- OPTION...: runs these suites of a build and adds up their programs.
meson_suites()
{
    local dir=$1 suites=() log tally p f s
    shift
    while (($#)) && [[ $1 != -- ]]; do
        suites+=(--suite "$1")
        shift
    done
    shift
    rm -f -- "$dir"/meson-logs/dev*.json
    run meson test -C "$dir" --no-rebuild --print-errorlogs --logbase dev "$@" "${suites[@]}"
    log=$(find "$dir/meson-logs" -name 'dev*.json' -size +0) # a wrapper's name goes into the name
    if [[ -z $log ]]; then
        fail "no test ran in $dir"
        return
    fi
    tally=$(python3 -c "$read_log" "$log" "$scratch/failures") || tally='0 1 0'
    [[ $tally != *$'\n'* ]] || printf '%s\n' "${tally%$'\n'*}"
    read -r p f s <<<"${tally##*$'\n'}"
    passed=$((passed + p)) failed=$((failed + f))
    if ((in_ci)); then
        for ((; s > 0; s--)); do
            fail "a test was skipped under --ci; its name is above"
        done
    else
        skipped=$((skipped + s))
    fi
}

suite_model()
{
    local out last rc
    if [[ ! -x $root/tests/model/run ]]; then
        skip model "tests/model/run is not there"
        return
    fi
    say "model"
    out=$scratch/model
    run_logged "$out" "$root/tests/model/run"
    rc=$?
    last=$(tail -n 1 -- "$out")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2]))
        sed -n '/ FAILED /s/^/FAIL  /p' -- "$out" >>"$scratch/failures"
        ((rc == 0 || BASH_REMATCH[2] > 0)) || fail "model: ended with $rc"
    else
        fail "model: ended with $rc and without a sum"
    fi
}

# in_build NAME OPTION...: a build of the whole tree in build-NAME/, as one test.
in_build()
{
    local dir=$root/build-$1
    shift
    configure "$dir" -Dtools=enabled -Dtests=enabled -Dbench=enabled "$@" && ninja -C "$dir"
}

sanitized=(-Dbuildtype=debugoptimized -Db_lundef=false -Dc_args=-fno-sanitize-recover=all)

suite_sanitize()
{
    local wrapper=() before=$failed
    export ASAN_OPTIONS=abort_on_error=1:detect_stack_use_after_return=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    export TSAN_OPTIONS="halt_on_error=1 die_after_fork=0 allow_addr2line=1"
    if [[ -f $root/tests/tsan.supp ]]; then
        TSAN_OPTIONS+=" suppressions=\"$root/tests/tsan.supp\""
    fi
    CC=gcc check "ASan and UBSan build" \
        in_build asan "${sanitized[@]}" -Db_sanitize=address,undefined
    if ((failed == before)); then
        say "ASan and UBSan: unit and stress"
        meson_suites "$root/build-asan" unit stress -- --no-suite lint -t 6 "${args[@]}"
    fi
    before=$failed
    CC=clang-14 check "TSan build" in_build tsan "${sanitized[@]}" -Db_sanitize=thread
    if ((failed == before)); then
        # TSan's fixed address map fails under much randomisation of addresses.
        if setarch -R true 2>/dev/null; then
            wrapper=(--wrapper 'setarch -R')
        fi
        say "TSan: unit and stress"
        meson_suites "$root/build-tsan" unit stress -- --no-suite lint -t 10 "${wrapper[@]}" \
            "${args[@]}"
    fi
}

# The headers of libnuma are the same on every machine; its library is not needed to compile.
aarch64_objects()
{
    local dir=$scratch/aarch64 f rc=0 n=0 cc=aarch64-linux-gnu-gcc
    mkdir -p -- "$dir/include" || return
    cp /usr/include/numa*.h "$dir/include/" || return
    for f in "$root"/shmring/*.c "$root"/lib/*.c; do
        [[ -f $f ]] || continue
        n=$((n + 1))
        "$cc" -c -std=c11 -O2 -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wshadow -Wconversion \
            -Werror -fPIC -I"$root" -isystem "$dir/include" -o "$dir/object.o" "$f" || rc=1
    done
    printf '%d objects\n' "$n"
    ((n > 0 && rc == 0))
}

suite_portable()
{
    local before
    CC=gcc check "gcc, warnings are errors" in_build gcc -Dwerror=true
    before=$failed
    CC=clang-14 check "clang, warnings are errors" in_build clang -Dwerror=true
    if ((failed == before)); then
        say "clang: unit"
        meson_suites "$root/build-clang" unit -- --no-suite lint "${args[@]}"
    fi
    check "aarch64 objects" aarch64_objects
}

formatted()
{
    find "$root" \( -path "$root/build*" -o -name .git \) -prune -o \
        \( -name '*.c' -o -name '*.h' \) -print0 |
        xargs -0 clang-format-14 --dry-run -Werror
}

# The suites of which the quick form leaves points out, at full depth.
suite_deep()
{
    if release; then
        say "deep: crash and stress"
        GEB_TEST_DEPTH=ci meson_suites "$build" crash stress -- -t 10 "${args[@]}"
    else
        fail "the build; nothing of it was tested"
    fi
}

suite_style() { check "clang-format" formatted; }

cmd_test()
{
    local suites=() suite meson_names=() long=0 packages=("${base_packages[@]}")
    args=()
    while (($#)); do
        case $1 in
        --ci) in_ci=1 ;;
        --long) long=1 ;;
        -*) die "test: unknown option $1; try tools/dev --help" 2 ;;
        *)
            listed "$1" "${quick_suites[@]}" "${ci_suites[@]}" ||
                die "test: no suite $1; there are: ${quick_suites[*]} ${ci_suites[*]}" 2
            suites+=("$1")
            ;;
        esac
        shift
    done
    if ((${#suites[@]} == 0)); then
        if ((in_ci)); then
            suites=("${ci_suites[@]}")
        else
            suites=("${quick_suites[@]}")
        fi
    fi
    if ((long)); then
        export GEB_TEST_DEPTH=long
        args=(-t 60)
    fi
    scratch=$(mktemp -d) || exit 1
    for suite in "${suites[@]}"; do
        if listed "$suite" "${ci_suites[@]}" && ! listed "$suite" "${not_built[@]}"; then
            packages+=("${ci_packages[@]}")
            break
        fi
    done
    setup "${packages[@]}"

    for suite in "${suites[@]}"; do
        if listed "$suite" "${not_built[@]}"; then
            say "skipped: $suite: not built yet"
            unbuilt=$((unbuilt + 1))
        elif listed "$suite" "${quick_suites[@]}"; then
            meson_names+=("$suite")
        fi
    done
    if ((${#meson_names[@]})); then
        if release; then
            say "suites: ${meson_names[*]}"
            meson_suites "$build" "${meson_names[@]}" -- "${args[@]}"
        else
            fail "the build; nothing of it was tested"
        fi
    fi
    for suite in "${suites[@]}"; do
        if ! listed "$suite" "${not_built[@]}" "${quick_suites[@]}"; then
            "suite_$suite"
        fi
    done

    if [[ -s $scratch/failures ]]; then
        say "what failed"
        cat -- "$scratch/failures"
    fi
    local all_skipped=$((skipped + unbuilt))
    printf '%d passed, %d failed' "$passed" "$failed"
    ((all_skipped == 0)) || printf ', %d skipped' "$all_skipped"
    printf '\n'
    ((passed + failed > 0)) || exit 2
    ((failed == 0))
}
