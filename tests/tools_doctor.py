#!/usr/bin/env python3
"""Goal: geb doctor --fix takes back what killed processes left, says for every finding what it did
or which command to give, disturbs nobody, and finds nothing to do the second time.

Method: producers, consumers and creators are killed with SIGKILL, or stopped; files are damaged; a
stranger locks; then the findings, the bus and what the next consumer gets are compared. The
commands that it names are given to a shell, and must repair what they are for.
"""
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
from cli_support import (BUILD, GEB, check, end, expect, geb, path, run, start,  # noqa: E402
                         stop, wait_for, consumer_is_there)

BIG = b'x' * 3000 + b'\n'


def doctor(*args, code=0):
    seen = geb('doctor', '--json', *args)
    check(seen.returncode == code, f'geb doctor {args}: exit {seen.returncode} {seen.stderr}')
    return json.loads(seen.stdout)


def findings(report):
    """All of them, as (what, did, do)."""
    return [(f['what'], f.get('did'), f.get('do'))
            for part in report['buses'] + report['stale'] for f in part['findings']]


def fixed(*wanted, args=()):
    """--fix does these things, and nothing is left; the second time there is nothing to do."""
    report = doctor('--fix', *args)
    found = findings(report)
    check(all(any(what.startswith(w) and did for what, did, _ in found) for w in wanted)
          and report['problems'] == 0 and report['fixed'] == len(wanted) == len(found),
          f'--fix does {wanted}: {found}')
    again = doctor('--fix', *args)
    check(again['problems'] == again['fixed'] == 0 and findings(again) == [], 'and that is all')
    return report


def to_do(what, todo, *args):
    """There is such a finding, with this part of a command. Returns the command."""
    found = findings(doctor(*args))
    commands = [do for w, _, do in found if what in w and do and todo in do]
    check(len(commands) == 1, f'"{what}": {todo}: {found}')
    return commands[0] if commands else 'false'


def obey(command):
    """Gives a command to a shell, as a person would."""
    env = {**os.environ, 'PATH': os.path.dirname(GEB) + ':' + os.environ['PATH']}
    done = subprocess.run(['sh', '-c', command], env=env, check=False, stdout=subprocess.DEVNULL)
    check(done.returncode == 0, f'the command is right: {command}')


def producer(bus, name, lines=b''):
    """A producer that has published these lines and waits for more."""
    before = json.loads(geb('info', bus, '--json').stdout)['pending']
    process = start('pub', bus, 't', '--lines', '--name', name)
    process.stdin.write(lines)
    process.stdin.flush()
    wait_for(f'{name} has published', lambda: name.encode() in geb('info', bus).stdout and
             json.loads(geb('info', bus, '--json').stdout)['pending']
             == before + lines.count(b'\n'))
    return process


def kill(process):
    process.kill()
    process.wait()


def dead_producers():
    """slots and memory of dead producers come back without a consumer; their events stay"""
    geb('create', 'ward', '--capacity', '64', '--policy', 'block', '--slabs', '256KiB',
        '--producers', '3')
    dead = [producer('ward', f'patient{i}', BIG) for i in range(3)]
    for process in dead:
        kill(process)
    expect(0, 'dead producer: process', 'doctor', 'ward')
    command = to_do('(patient1), slot 2', 'geb doctor --fix ' + path('ward'))
    report = doctor('--fix')
    found = findings(report)
    check(sum(did == 'its slot is free' for _, did, _ in found) == 3, f'three slots: {found}')
    waits = [do for what, _, do in found if what.startswith('chunks of memory')]
    check(len(waits) == 1 and 'geb consume ' in waits[0], f'memory waits for the events: {found}')
    check(report['fixed'] == 3 and report['problems'] == 1, f'{report["fixed"]} things done')
    got = expect(0, '', 'consume', 'ward', '--count', '3').stdout
    check(got == BIG * 3, 'their events arrive')
    geb('doctor', '--fix')
    fixed()
    obey(command)
    expect(0, '0 things to look at', 'doctor', '--fix', 'ward')


def beside_the_living():
    """a stopped consumer does not sweep: --fix does, and the living go on"""
    geb('create', 'busy', '--capacity', '64', '--policy', 'block')
    consumer = start('consume', 'busy', '--count', '4')
    consumer_is_there('busy')
    alive = producer('busy', 'alive')
    dead = producer('busy', 'dead')
    stop(consumer)
    kill(dead)
    fixed('dead producer: process')
    alive.stdin.write(b'one\ntwo\n')
    alive.stdin.flush()
    wait_for('its events', lambda: json.loads(geb('info', 'busy', '--json').stdout)['pending'] == 2)
    expect(0, 'none', 'doctor', '--fix', '--remove-unused', env={'GEB_DIR': path('none')})
    check(findings(doctor('--fix', '--remove-unused')) == [], 'a bus in use stays')
    consumer.send_signal(signal.SIGCONT)
    alive.stdin.write(b'three\nfour\n')
    end(alive, 'the living producer', 0)
    check(end(consumer, 'the consumer', 0) == b'one\ntwo\nthree\nfour\n', 'all events arrive')


def dead_consumer():
    """what a dead consumer had is for the next one: the command starts it"""
    geb('create', 'lost', '--capacity', '64', '--policy', 'block')
    consumer = start('consume', 'lost')
    consumer_is_there('lost')
    kill(consumer)
    to_do('dead consumer: process', 'geb consume ' + path('lost'))
    report = doctor('--fix')
    check(report['problems'] == 1 and report['fixed'] == 0, 'it is left to do after --fix')
    geb('consume', 'lost', '--timeout', '0s')
    check(doctor()['problems'] == 0, 'the next one takes its place')


def leftovers():
    """files of creators that died go, those of creators at work stay"""
    dead, alive = path('.geb-00000000000000d1'), path('.geb-00000000000000a1')
    for name in (dead, alive):
        with open(name, 'wb') as f:
            f.write(b'\0' * 5000)
    with open(alive, 'r+b') as creator:
        # struct flock: what the creator of a bus holds until the file has its name
        lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 1 << 22, 1, 0)
        fcntl.fcntl(creator, 37, lock)  # F_OFD_SETLK
        to_do('the creator of a bus died', 'geb doctor --fix')
        fixed('the creator of a bus died')
        check(os.path.exists(alive) and not os.path.exists(dead), 'the right one is gone')
    fixed('the creator of a bus died')
    check(os.listdir(os.environ['GEB_DIR']) == [], 'and the other one when its creator is')


def no_buses():
    """what is no bus, or of another version, stays: the command that it names removes it"""
    for name in ('old', 'torn'):
        geb('create', name, '--capacity', '64')
    with open(path('old'), 'r+b') as f:
        f.seek(8)
        f.write((77).to_bytes(4, 'little'))
    os.truncate(path('torn'), 8192)
    with open(path("it's junk"), 'wb') as f:
        f.write(b'\0' * 9000)
    os.mkdir(path('dir'))
    report = doctor('--fix', '--remove-unused')
    check(report['problems'] == 4 and report['fixed'] == 0 and
          len(os.listdir(os.environ['GEB_DIR'])) == 4, f'nothing was removed: {findings(report)}')
    for what, todo in (('layout version 77', 'geb rm --force'), ('damaged', 'geb rm --force'),
                       ('is no bus', 'rm '), ('is no bus', 'rmdir ')):
        obey(to_do(what, todo))
    check(doctor()['problems'] == 0 and os.listdir(os.environ['GEB_DIR']) == [], 'all are gone')


def unused():
    """buses that nobody uses go only if asked for, and never one with events"""
    geb('create', 'empty', '--capacity', '64')
    geb('create', 'full', '--capacity', '64')
    geb('pub', 'full', 't', 'precious')
    fixed()
    expect(2, b'--fix', 'doctor', '--remove-unused')
    report = doctor('--fix', '--remove-unused')
    check(os.listdir(os.environ['GEB_DIR']) == ['full'] and report['fixed'] == 1 and
          report['problems'] == 1, f'the empty one is gone: {findings(report)}')
    told = [do for what, _, do in findings(report) if 'events wait' in what]
    check(told == ['geb rm ' + path('full')], f'the other one is not: {told}')
    check(expect(0, '', 'consume', 'full', '--count', '1').stdout == b'precious\n', 'its event')
    report = doctor('--fix', '--remove-unused')
    check(os.listdir(os.environ['GEB_DIR']) == [] and report['fixed'] == 1, 'then it goes')


def strangers():
    """a read lock on a role or a slot is named, with the file to look for"""
    geb('create', 'seen', '--capacity', '64')
    with open(path('seen'), 'rb') as f:
        fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB, 2, 0)
        to_do('takes no part in it: 2', 'lsof ' + path('seen'))
        refused = expect(1, b'lsof', 'consume', 'seen', '--timeout', '0s')
        check(b'takes no part' in refused.stderr, 'a consumer is told, too')
        expect(1, b'lsof', 'rm', 'seen')
        report = doctor('--fix')
        check(report['problems'] == 1 and report['fixed'] == 0, 'it stays until that one ends')
    check(doctor()['problems'] == 0, 'and then is gone')


def killed_repairs():
    """a repair that is killed again and again leaves a bus that the next one repairs"""
    geb('create', 'torn', '--capacity', '64', '--policy', 'block', '--slabs', '1MiB')
    for i in range(20):
        kill(producer('torn', f'patient{i}', BIG if i % 2 else b'small\n'))
        process = start('doctor', '--fix', 'torn')
        if i % 4:  # it has printed the machine's part, or more, or is at its end
            process.stdout.read(100 * (i % 4))
        kill(process)
    doctor('--fix')
    check([b['dead'] for b in doctor()['buses']] == [[]], 'nobody is dead any more')
    got = expect(0, '', 'consume', 'torn', '--count', '20').stdout.splitlines()
    check(got == [BIG[:-1] if i % 2 else b'small' for i in range(20)], 'all events arrive')
    doctor('--fix')
    fixed()


def directory():
    """the directory of the buses is closed to others; nothing of somebody else's is touched"""
    uid = 100000 + os.getpid() % 400000
    own = f'/dev/shm/geb-{uid}'
    try:
        if os.geteuid() != 0 or os.path.lexists(own):
            raise PermissionError('not root')
        subprocess.run([GEB, '--version'], user=uid, stdout=subprocess.DEVNULL, check=True)
    except (PermissionError, subprocess.SubprocessError) as why:
        print(f'--    skipped: {why}')
        return
    as_user = {'user': uid, 'env': {'GEB_DIR': ''}}
    try:
        expect(0, '', 'create', 'shop', '--capacity', '64', **as_user)
        os.chmod(own, 0o777)
        with open(own + '/planted', 'wb') as f:
            f.write(b'x')
        expect(1, b'nobody else may write (geb doctor --fix)', 'info', 'shop', **as_user)
        expect(0, 'a mode with which geb refuses it', 'doctor', **as_user)
        expect(0, 'done:  its mode is 0700', 'doctor', '--fix', **as_user)
        check(os.stat(own).st_mode & 0o7777 == 0o700, 'its mode')
        expect(0, 'belongs to somebody else', 'doctor', '--fix', **as_user)
        expect(0, 'rm ' + own + '/planted', 'doctor', '--fix', **as_user)
        check(os.path.exists(own + '/planted'), 'a file of somebody else is left to the person')
        expect(0, '', 'info', 'shop', **as_user)
        expect(0, '', 'rm', 'shop', **as_user)
        os.unlink(own + '/planted')
        os.chmod(own, 0)
        expect(0, 'done:  its mode is 0700', 'doctor', '--fix', **as_user)
        os.rmdir(own)
        os.symlink('/tmp', own)
        expect(0, 'is in the way', 'doctor', '--fix', **as_user)
    finally:
        subprocess.run(['rm', '-rf', own], check=True)


check(os.path.exists(BUILD), 'the build')
run(dead_producers, beside_the_living, dead_consumer, leftovers, no_buses, unused, strangers,
    killed_repairs, directory)
