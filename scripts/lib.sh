# shellcheck shell=bash
# What the scripts share: messages, the record of started processes, how they are stopped.
#
# A process is recorded in DIR/processes as "kind pid start", where start is its start time in clock ticks since
# boot (field 22 of /proc/PID/stat): pid and start together never name another process, so nothing else is ever
# signalled, whatever became of the pid. `kind` is up, dispatcher, worker, postgres or redis.

# shellcheck disable=SC2034 # used by those who source this
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

say() {
    printf '%s\n' "$*"
}

warn() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    warn "$@"
    exit 1
}

# bad usage
usage_error() {
    warn "$* (see --help)"
    exit 2
}

# The comment at the top of the calling script is its help.
print_help() {
    sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"
}

# Sets PROCESS_START to the start time of a live process; fails for one that is gone or a zombie. Without a fork, since a
# Ctrl-C that comes while bash waits for one may be lost.
process_start() { # PID
    local stat='' rest
    # Not $(<file): where the file is missing, bash then leaves the whole script under `set -e`.
    { IFS= read -r -d '' stat <"/proc/$1/stat" || [[ -n $stat ]]; } 2>/dev/null || return 1
    rest=${stat##*) } # after the program's name, which may hold anything
    # shellcheck disable=SC2086
    set -- $rest
    [[ $1 != [ZX] ]] || return 1
    PROCESS_START=${20}
}

record_process() { # DIR KIND PID
    process_start "$3" || return 1
    printf '%s %s %s\n' "$2" "$3" "$PROCESS_START" >>"$1/processes"
}

is_alive() { # PID START
    process_start "$1" && [[ $PROCESS_START == "$2" ]]
}

# Prints "kind pid start" of what is recorded in DIR and still lives.
live_processes() { # DIR [KIND…]
    local dir=$1 kind pid start
    shift
    [[ -f $dir/processes ]] || return 0
    while read -r kind pid start; do
        if [[ $# -gt 0 && " $* " != *" $kind "* ]]; then
            continue
        fi
        if is_alive "$pid" "$start"; then
            printf '%s %s %s\n' "$kind" "$pid" "$start"
        fi
    done <"$dir/processes"
    return 0
}

signal_processes() { # DIR SIGNAL KIND…
    local dir=$1 signal=$2 pid
    shift 2
    while read -r _ pid _; do
        kill -s "$signal" "$pid" 2>/dev/null || true
    done < <(live_processes "$dir" "$@")
}

# A stopped process hears nothing before it goes on.
wake_stopped() { # DIR KIND…
    local pid
    while read -r _ pid _; do
        if grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; then
            kill -s CONT "$pid" 2>/dev/null || true
        fi
    done < <(live_processes "$@")
}

# Succeeds when none of these kinds lives any more.
wait_gone() { # DIR SECONDS KIND…
    local dir=$1 end=$((SECONDS + $2))
    shift 2
    while [[ -n $(live_processes "$dir" "$@") ]]; do
        [[ $SECONDS -lt $end ]] || return 1
        sleep 0.1 || true # a Ctrl-C ends it too
    done
}

# Stops these kinds in steps: politely, then less so. Says what did not follow at once.
stop_kinds() { # DIR SECONDS "SIGNAL…" KIND…
    local dir=$1 seconds=$2 signals=$3 signal first=1
    shift 3
    for signal in $signals; do
        [[ -n $(live_processes "$dir" "$@") ]] || return 0
        [[ $first == 1 ]] || warn "still running, now SIG$signal: $(live_processes "$dir" "$@" | awk '{print $1, $2}' | paste -sd, -)"
        signal_processes "$dir" "$signal" "$@"
        wake_stopped "$dir" "$@"
        if wait_gone "$dir" "$seconds" "$@"; then
            return 0
        fi
        seconds=10
        first=0
    done
    return 1
}

# Drains dispatcher and workers, then stops the servers below them. The first waiting time is above the programs'
# default drain_timeout of 30 s.
stop_all() { # DIR
    local dir=$1 failed=0
    stop_kinds "$dir" "${HIE_DRAIN_WAIT:-60}" "TERM TERM KILL" dispatcher worker || failed=1
    stop_kinds "$dir" 60 "INT QUIT KILL" postgres || failed=1 # INT is PostgreSQL's fast shutdown
    stop_kinds "$dir" 30 "TERM KILL" redis || failed=1
    if [[ $failed == 1 ]]; then
        warn "would not stop: $(live_processes "$dir" | awk '{print $1, $2}' | paste -sd, -)"
        return 1
    fi
    rm -f -- "$dir/processes" "$dir/env"
}

# Configures and builds targets of the release build; quick when nothing changed. The log is shown only on failure.
build_release() { # TARGET…
    build_preset release build "$@"
}

build_preset() { # PRESET FOLDER TARGET…
    local preset=$1 folder=$ROOT/$2
    configure_preset "$preset" "$2"
    shift 2
    say "${0##*/}: building $preset"
    quietly "the $preset build" cmake --build "$folder" ${1:+--target} "$@"
}

configure_preset() { # PRESET FOLDER
    [[ -f $ROOT/$2/build.ninja ]] || (cd -- "$ROOT" && quietly "configuring $1" cmake --preset "$1")
}

# Runs a command and shows what it wrote only when it fails, which ends the script.
quietly() { # WHAT COMMAND…
    local what=$1 log
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 60 -- "$log" >&2
        rm -f -- "$log"
        die "$what failed"
    fi
    rm -f -- "$log"
}
