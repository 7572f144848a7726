#!/usr/bin/env python3
"""Goal: geb-top shows what is there, in the shape that programs rely on, and says what is wrong
otherwise.

Method: the exit codes and messages for each wrong use; then all its forms on the bus of a geb demo,
and on that bus once its processes are gone.
"""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

sys.dont_write_bytecode = True
from cli_support import buses_make  # noqa: E402

BUILD = os.environ['GEB_BUILD']
GEB = os.path.join(BUILD, 'tools', 'geb')
TOP = os.path.join(BUILD, 'tools', 'geb-top')
KEYS = {
    'bus': 'name id epoch capacity policy exclusive backing page_bytes bytes age_s',
    'account': 'accepted delivered dropped expired cancelled unhandled dead_lettered pending '
               'lost_in_crash',
    'metrics': 'published processed errors',
    'ring': 'used peak revoked returned quarantined',
    'consumer': 'redelivered restarts standby',
}
ROWS = {
    'slabs': 'node block_bytes blocks free',
    'errors': 'code text count first_ns last_ns',
    'producers': 'slot name pid state published bytes dropped blocked_ns full revoked',
    'topics': 'id name delivered dropped',
    'handlers': 'name topic calls errors',
}
ABSENT = 'shelf transactions workers memory'.split()
ABSENT_IN = {'bus': ['sealed']}
ABSENT_IN_ROWS = {'slabs': ['min_free'], 'producers': ['cpu', 'node'],
                  'handlers': ['retries', 'p50_ns', 'p99_ns', 'p999_ns', 'max_ns']}
failures = []


def check(ok, what):
    print(f'{"OK" if ok else "FAIL":5} {what}', flush=True)
    if not ok:
        failures.append(what)


def top(*args, **env):
    return subprocess.run([TOP, *args], capture_output=True, text=True, check=False,
                          env={**os.environ, **env})


def refused(code, says, *args):
    run = top(*args)
    check(run.returncode == code and says in run.stderr and run.stdout == '',
          f'geb-top {" ".join(args)}: exit {run.returncode}, {run.stderr.strip().splitlines()[:1]}')


def wrong_use():
    refused(2, 'Usage')
    refused(2, 'Usage', 'a', 'b')
    refused(2, 'Usage', 'a', '--nothing')
    refused(2, '-d 5', 'a', '-d', '5')
    refused(2, '-d 1us', 'a', '-d', '1us')
    refused(2, '-n 0', 'a', '-n', '0')
    refused(2, '-n -1', 'a', '-n', '-1')
    refused(2, 'not built yet', 'a', '--openmetrics')
    refused(3, 'geb create nowhere', 'nowhere', '--once')
    refused(3, 'geb ls', 'nowhere', '--once', '--json')
    refused(1, '', 'no name', '--once')
    foreign = os.path.join(os.environ['GEB_DIR'], 'foreign')
    with open(foreign, 'wb') as f:
        f.write(b'no bus ' * 10000)
    refused(1, f'to remove it:  rm {foreign}', 'foreign', '--once')
    os.unlink(foreign)
    check(top('--help').returncode == 0, 'geb-top --help')


def shape(sample):
    check(sample['schema_version'] == 1, 'schema_version 1')
    for part, keys in KEYS.items():
        check(set(keys.split()) <= set(sample[part]), f'"{part}" has its keys')
    for part, keys in ROWS.items():
        check(all(set(keys.split()) <= set(row) for row in sample[part]),
              f'each of {len(sample[part])} rows of "{part}" has its keys')
    latency = sample['latency']['publish_to_handler']
    check(set(latency) == set('sampled_1_in count p50_ns p99_ns p999_ns max_ns'.split()),
          'the latency has its keys')
    absent = not set(ABSENT) & set(sample)
    for part, keys in ABSENT_IN.items():
        absent = absent and not set(keys) & set(sample[part])
    for part, keys in ABSENT_IN_ROWS.items():
        absent = absent and not any(set(keys) & set(row) for row in sample[part])
    check(absent, 'what is not built yet is absent')
    check(sample['bus'].get('node', 0) >= 0, f'the node, where the kernel tells it: '
          f'{sample["bus"].get("node")}')
    states = {p['state'] for p in sample['producers']}
    check(states <= {'running', 'waiting', 'blocked', 'lagging', 'stopped', 'dead'},
          f'states: {sorted(states)}')


def samples(*args):
    run = top(*args)
    check(run.returncode == 0, f'geb-top {" ".join(args)}: exit {run.returncode} {run.stderr}')
    return [json.loads(line) for line in run.stdout.splitlines()]


def at_work():
    three = samples('seen', '--json', '-d', '100ms', '-n', '3')
    check(len(three) == 3, 'three samples')
    shape(three[-1])
    bus = three[-1]['bus']
    check((bus['name'], bus['capacity'], bus['policy'], bus['exclusive']) ==
          ('seen', 65536, 'drop-oldest', False), 'the bus is described')
    accepted = [s['account']['accepted'] for s in three]
    check(accepted == sorted(accepted), f'accepted never shrinks: {accepted}')
    grown()
    check(len(samples(os.path.join(os.environ['GEB_DIR'], 'seen'), '--once', '--json')) == 1,
          'a path names the bus as well')
    run = top('--once', '--json', GEB_BUS='seen')
    check(run.returncode == 0 and json.loads(run.stdout)['bus']['name'] == 'seen', 'GEB_BUS')
    text = top('seen', '-n', '2', '-d', '50ms')
    for word in ('ACCOUNT', 'RING', 'LATENCY', 'PRODUCERS', 'TOPICS', 'HANDLERS', 'accepted',
                 'events/s', 'ticks', 'drop-oldest'):
        check(word in text.stdout, f'the text shows {word}')
    check('\033' not in text.stdout, 'no escape sequences where there is no terminal')
    widest = max(len(line) for line in text.stdout.splitlines())
    check(widest <= 120, f'the text is {widest} columns wide')


def grown():
    """Samples of one geb-top, until the last one shows more events than the first."""
    with subprocess.Popen([TOP, 'seen', '--json', '-d', '1ms'], stdout=subprocess.PIPE) as process:
        until = time.monotonic() + 30
        first = last = json.loads(process.stdout.readline())['account']['accepted']
        while last == first and time.monotonic() < until:
            last = json.loads(process.stdout.readline())['account']['accepted']
        check(last > first, f'accepted grows: {first}, {last}')
        process.stdout.close()


def read_screen(master):
    """What the screen got; nothing once the other side is closed."""
    try:
        return os.read(master, 65536)
    except OSError:
        return b''


def on_a_dumb_terminal():
    """Where TERM says nothing, or "dumb": samples one below the other, no escape sequences."""
    for term in ('dumb', '', None):
        master, slave = pty.openpty()
        env = {k: v for k, v in os.environ.items() if k != 'TERM'}
        env.update({} if term is None else {'TERM': term})
        with subprocess.Popen([TOP, 'seen', '-d', '1ms', '-n', '3'], stdin=slave, stdout=slave,
                              stderr=slave, env=env) as plain:
            os.close(slave)
            shown = b''
            while part := read_screen(master):
                shown += part
            check(plain.wait() == 0 and shown.count(b'ACCOUNT') == 3 and b'\033' not in shown,
                  f'TERM {term!r}: exit {plain.returncode}, {shown.count(b"ACCOUNT")} samples')
        os.close(master)


def on_a_terminal():
    """Screens of a terminal of 12 rows: none scrolls; Ctrl-C ends it with 0."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 12, 60, 0, 0))
    with subprocess.Popen([TOP, 'seen', '-d', '20ms'], stdin=slave, stdout=slave,
                          stderr=slave, env={**os.environ, 'TERM': 'vt100'}) as screen:
        os.close(slave)
        shown = b''
        while shown.count(b'\033[J') < 3 and screen.poll() is None:
            shown += read_screen(master)
        screen.send_signal(signal.SIGINT)
        while screen.poll() is None:  # so that it is never stuck in a write
            if select.select([master], [], [], 0.01)[0]:
                read_screen(master)
        check(screen.wait() == 0, f'Ctrl-C: exit {screen.returncode}')
    os.close(master)
    frames = shown.split(b'\033[H')[1:3]
    rows = [re.sub(rb'\033\[[KJ]', b'', frame).split(b'\n') for frame in frames]
    check(all(len(r) == 12 for r in rows), f'{[len(r) for r in rows]} rows of 12')
    check(all(len(line.strip()) <= 60 for r in rows for line in r), 'lines of 60 columns')
    check(b'ACCOUNT' in frames[0], 'it shows the account')


def output_ends():
    """A full disk is an error; a reader that has seen enough is none."""
    for args in (['--once'], ['--once', '--json'], ['-n', '5', '-d', '1ms'], ['--help']):
        with open('/dev/full', 'wb') as full:
            run = subprocess.run([TOP, 'seen', *args], stdout=full, stderr=subprocess.PIPE,
                                 check=False)
        check(run.returncode == 1 and b'No space left' in run.stderr, f'full: {args} {run.stderr}')
    for args in ([], ['--json']):
        with subprocess.Popen([TOP, 'seen', '-d', '1ms', *args], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            process.stdout.readline()
            process.stdout.close()
            check(process.wait() == 0 and process.stderr.read() == b'',
                  f'a reader that goes away: {args} exit {process.returncode}')


def states():
    """A consumer and a producer that are stopped are called so."""
    env = {**os.environ, 'GEB_BUS': 'states'}
    quiet = {'stdout': subprocess.DEVNULL, 'env': env}
    subprocess.run([GEB, 'create', '--policy', 'error', '--capacity', '8'], check=True, **quiet)

    def look():
        sample = samples('states', '--once', '--json')[0]
        return sample['consumer'].get('state'), [p['state'] for p in sample['producers']]

    with subprocess.Popen([GEB, 'pub', 't', '--lines'], stdin=subprocess.PIPE, **quiet) as pub, \
            subprocess.Popen([GEB, 'consume'], **quiet) as consume:
        # A consumer that waits runs at times, to see whether somebody died.
        until = time.monotonic() + 30
        while (seen := look()) != ('waiting', ['running']) and time.monotonic() < until:
            pass
        check(seen == ('waiting', ['running']), f'both are there: {seen}')
        for process, want in ((consume, ('stopped', ['running'])),
                              (pub, ('stopped', ['stopped']))):
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            seen = look()
            check(seen == want, f'{want}: {seen}')
        for process in (consume, pub):
            process.send_signal(signal.SIGCONT)
        pub.communicate()
        consume.send_signal(signal.SIGINT)
        consume.wait()
    subprocess.run([GEB, 'rm'], check=True, env=env)


def start_demo():
    demo = subprocess.Popen([GEB, 'demo', '--seconds', '3600', '--bus', 'seen'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        run = top('seen', '--once', '--json')
        if run.returncode == 0 and json.loads(run.stdout)['account']['accepted'] > 10000:
            return demo
        time.sleep(0.01)
    check(False, 'the demo starts')
    return demo


def has_ended(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            return f.read().rpartition(')')[2].split()[0] == 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return True


def left_alone(demo):
    """A bus whose supervisor and processes were killed can be looked at, and removed."""
    with open(f'/proc/{demo.pid}/task/{demo.pid}/children', encoding='ascii') as f:
        children = [int(p) for p in f.read().split()]
    os.kill(demo.pid, signal.SIGSTOP)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while not all(has_ended(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.01)
    demo.kill()
    demo.wait()
    after = samples('seen', '--once', '--json')[0]
    check(all(p['state'] == 'dead' for p in after['producers']), 'killed producers are dead')
    check(after['consumer'].get('state', 'dead') == 'dead', 'the killed consumer is dead')
    check('dead' in top('seen', '--once').stdout, 'the text says so')
    run = subprocess.run([GEB, 'rm', 'seen'], capture_output=True, text=True, check=False)
    check(run.returncode == 0, f'geb rm: exit {run.returncode} {run.stderr}')
    refused(3, 'geb ls', 'seen', '--once')


def main():
    buses_make()
    try:
        wrong_use()
        states()
        demo = start_demo()
        try:
            at_work()
            on_a_terminal()
            on_a_dumb_terminal()
            output_ends()
        finally:
            left_alone(demo)
    finally:
        shutil.rmtree(os.environ['GEB_DIR'])
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
