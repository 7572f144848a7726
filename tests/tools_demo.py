#!/usr/bin/env python3
"""Goal: geb demo ends with an account that closes, and leaves nothing behind, however it ends.

Method: run it with --json and compare account and ledger here as well. geb-top looks from outside
at one that runs for as long as the test wants, also while its producers stand still: then the
account that it shows must close. End it by SIGINT, SIGTERM and SIGKILL, at work and as soon as its
bus is there, and look for its processes and its bus.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from cli_support import buses_make  # noqa: E402

BUILD = os.environ['GEB_BUILD']
GEB = os.path.join(BUILD, 'tools', 'geb')
TOP = os.path.join(BUILD, 'tools', 'geb-top')
COLUMNS = ('accepted delivered dropped expired cancelled unhandled dead_lettered pending '
           'lost_in_crash').split()
SOURCES = 'cpu memory network process ticks blocks'.split()
failures = []


def check(ok, what):
    print(f'{"OK" if ok else "FAIL":5} {what}', flush=True)
    if not ok:
        failures.append(what)


def children(pid):
    try:
        with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
            return [int(p) for p in f.read().split()]
    except FileNotFoundError:
        return []


def wait_for(what, test, seconds=30):
    """Waits for a state; what it waits for is tested, never assumed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = test()
        if result:
            return result
        time.sleep(0.01)
    check(False, f'{what} within {seconds} s')
    return None


def sample(bus):
    run = subprocess.run([TOP, bus, '--once', '--json'], capture_output=True, text=True,
                         check=False)
    return json.loads(run.stdout) if run.returncode == 0 else None


def gap(account):
    return account['accepted'] - sum(account[c] for c in COLUMNS[1:])


def look_from_outside(bus):
    seen = wait_for('geb-top sees all seven at work',
                    lambda: (s := sample(bus)) and len(s['producers']) == 6 and
                    all(p['published'] > 200 for p in s['producers'] if p['name'] == 'cpu') and s)
    if not seen:
        return
    check({p['name'] for p in seen['producers']} == set(SOURCES), 'geb-top names the producers')
    check(seen['consumer'].get('pid', 0) > 0, 'geb-top shows the consumer')
    names = {t['name'] for t in seen['topics']}
    check(names == set(SOURCES) | {'late', 'unwanted'}, f'geb-top names the topics: {names}')
    # Events go on while the columns are read one after the other: it closes when none do.
    producers = [p['pid'] for p in seen['producers']]
    for pid in producers:
        os.kill(pid, signal.SIGSTOP)
    wait_for('all producers stand still', lambda: all(state(pid) == 'T' for pid in producers))
    quiet = wait_for('the consumer has taken all of it',
                     lambda: (s := sample(bus)) and s['account']['pending'] == 0 and s)
    check(quiet and gap(quiet['account']) == 0, f'its account closes: {quiet and quiet["account"]}')
    for pid in producers:
        os.kill(pid, signal.SIGCONT)


def looked_at():
    demo = subprocess.Popen([GEB, 'demo', '--seconds', '3600', '--bus', 'seen'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    look_from_outside('seen')
    demo.send_signal(signal.SIGINT)
    check(demo.wait(60) == 1, f'it is ended: {demo.returncode}')


def a_whole_run():
    run = subprocess.run([GEB, 'demo', '--seconds', '3', '--json', '--bus', 'whole'],
                         capture_output=True, text=True, timeout=90, check=False)
    out, err = run.stdout, run.stderr
    check(run.returncode == 0 and err == '', f'demo ends with {run.returncode} {err.strip()}')
    result = json.loads(out)
    for key in ('account', 'ledger', 'killed', 'stopped', 'rates', 'latency', 'machine'):
        check(key in result, f'its JSON has "{key}"')
    account, ledger = result['account'], result['ledger']
    check(list(account) == COLUMNS and list(ledger) == COLUMNS, 'account and ledger: all columns')
    check(account == ledger == result['observed'], f'account equals ledger: {account}')
    check(account['accepted'] == sum(account[c] for c in COLUMNS[1:]), 'the account closes')
    check(account['expired'] > 0 and account['unhandled'] > 0, 'expired and unhandled happen')
    check(result['metrics'] == result['ledger_metrics'], 'published, processed and errors agree')
    check(result['metrics']['errors'] > 0, 'handler errors happen')
    killed, stopped = result['killed'], result['stopped']
    check(killed['producer'] == 'ticks' and killed['ended'] > 0 and
          killed['begun'] - killed['ended'] in (0, 1), f'one was killed: {killed}')
    check(stopped['producer'] == 'blocks' and stopped['until_s'] > stopped['from_s'],
          f'one was stopped: {stopped}')
    check(sorted(result['rates']['sources']) == sorted(SOURCES), 'rates of every source')
    check(result['latency']['count'] > 0, 'latency is sampled')
    machine = result['machine']
    busy = machine['processors_busy']
    check(0 < busy['mean'] <= machine['processors'] and
          0 < busy['peak'] <= machine['processors'], f'the machine was measured: {busy}')


def ended_by(sig):
    demo = subprocess.Popen([GEB, 'demo', '--seconds', '3600'], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)
    bus = f'demo-{demo.pid}'
    wait_for('six producers', lambda: (s := sample(bus)) and len(s['producers']) == 6)
    # One of them stands still when the end comes.
    processes = children(demo.pid)
    check(len(processes) == 7, f'{sig.name}: seven processes')
    os.kill(processes[3], signal.SIGSTOP)
    demo.send_signal(sig)
    err = demo.communicate(timeout=60)[1]
    if sig == signal.SIGKILL:
        check(demo.returncode == -sig, f'{sig.name}: it dies')
    else:
        check(demo.returncode == 1 and 'interrupted' in err, f'{sig.name}: exit 1, "{err.strip()}"')
    wait_for(f'{sig.name}: no process is left',
             lambda: not any(os.path.exists(f'/proc/{p}') and 'Z' not in state(p)
                             for p in processes))
    left = wait_for(f'{sig.name}: no bus is left', lambda: not files() or None)
    check(bool(left), f'{sig.name}: nothing is left in the directory of the buses')


def ended_early(sig):
    """As soon as the bus is there, before its consumer is ready."""
    for i in range(5):
        demo = subprocess.Popen([GEB, 'demo', '--seconds', '3600', '--bus', f'early{i}'],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while f'early{i}' not in files() and time.monotonic() < until:
            pass
        check(demo.poll() is None, f'{sig.name}: the bus is there')
        demo.send_signal(sig)
        demo.wait(60)
        wait_for(f'{sig.name}, early: no bus is left', lambda: not files())


def state(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            return f.read().rpartition(')')[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return 'Z'


def files():
    return os.listdir(os.environ['GEB_DIR'])


def bad_input():
    for args, code in ((['--seconds', '0'], 2), (['--seconds', 'x'], 2), (['--what'], 2),
                       (['--bus', 'x' * 64], 2), (['--bus', 'a b'], 1), (['left', 'over'], 2)):
        run = subprocess.run([GEB, 'demo', *args], capture_output=True, text=True, check=False)
        check(run.returncode == code and run.stderr != '' and run.stdout == '',
              f'demo {" ".join(args)}: exit {run.returncode}, {run.stderr.splitlines()[:1]}')
    demo = subprocess.Popen([GEB, 'demo', '--seconds', '3600', '--bus', 'taken'],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for('a bus', lambda: sample('taken'))
    run = subprocess.run([GEB, 'demo', '--bus', 'taken'], capture_output=True, text=True,
                         check=False)
    check(run.returncode == 1 and 'exists' in run.stderr, f'a taken name: {run.stderr.strip()}')
    check(sample('taken') is not None, 'the bus of that name is still there')
    demo.send_signal(signal.SIGINT)
    demo.wait(60)
    with open('/dev/full', 'w', encoding='ascii') as full:
        run = subprocess.run([GEB, 'demo', '--seconds', '1', '--json'], stdout=full,
                             stderr=subprocess.PIPE, text=True, check=False)
    check(run.returncode == 1 and run.stderr != '', f'a full disk: {run.stderr.strip()}')
    check(not files(), 'and no bus is left')


def main():
    buses_make()
    try:
        a_whole_run()
        check(not files(), 'no bus is left')
        looked_at()
        check(not files(), 'no bus is left')
        for sig in (signal.SIGINT, signal.SIGKILL):
            ended_early(sig)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            ended_by(sig)
        bad_input()
    finally:
        shutil.rmtree(os.environ['GEB_DIR'])
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
