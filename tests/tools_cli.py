#!/usr/bin/env python3
"""Goal: geb create, ls, info, rm and doctor show and change what they say, refuse what they must,
and name the next command.

Method: each use and wrong use as a process, with its exit code and a word of its message; live,
killed and foreign users of a bus; files that are no buses.
"""
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
from cli_support import (GEB, check, end, expect, geb, path, run, start,  # noqa: E402
                         wait_for, consumer_is_there)


def doctor():
    return json.loads(geb('doctor', '--json').stdout)


def help_texts():
    """each subcommand explains itself, examples first"""
    for name in ('create', 'ls', 'info', 'rm', 'pub', 'consume', 'tap', 'doctor', 'demo'):
        text = geb(name, '--help').stdout.decode()
        check(text.startswith('Examples:\n  ') and 'Usage: geb ' + name in text,
              f'geb {name} --help opens with examples')
        check(max(map(len, text.splitlines())) <= 100, f'geb {name} --help fits 100 columns')
        expect(2, b'Usage', name, '--frobnicate')


def create():
    """options reach the bus; what cannot be is refused with exit 2"""
    made = expect(0, path('a'), 'create', 'a', '--capacity', '1024', '--policy', 'block',
                  '--max-event', '4KiB', '--slabs', '1MiB', '--producers', '7', '--mode', '0660',
                  '--topics', '9', '--patience', '50us')
    check(b'1,024 events' in made.stdout and b'MiB' in made.stdout, b'it prints ' + made.stdout)
    info = json.loads(expect(0, 'policy', 'info', 'a', '--json').stdout)
    want = {'capacity': 1024, 'policy': 'block', 'max_event': 4096, 'slab_bytes': 1 << 20,
            'producers_max': 7, 'topics_max': 9, 'mode': '0660', 'exclusive': False,
            'patience_ns': 50000, 'pending': 0, 'participants': [], 'path': path('a')}
    check(want == {k: info.get(k) for k in want}, f'info --json tells all of it: {info}')
    expect(0, b'existed already', 'create', 'a', '--capacity', '1024', '--policy', 'block',
           '--max-event', '4KiB', '--slabs', '1MiB', '--producers', '7', '--mode', '0660',
           '--topics', '9', '--patience', '50us')
    expect(1, b'geb info a', 'create', 'a')
    expect(0, path('x'), 'create', 'x', '--exclusive', '--policy', 'error', '--slabs', '0B')
    expect(0, 'exclusive', 'info', 'x')
    expect(0, '"bytes"', 'create', '--json', env={'GEB_BUS': 'preset'})
    expect(0, 'preset', 'info', env={'GEB_BUS': 'preset'})
    expect(0, path('x'), 'info', 'x', env={'GEB_BUS': 'preset'})
    for args in (['--capacity', '100'], ['--capacity', '64KiB'], ['--max-event', '64'],
                 ['--slabs', '1048576'], ['--slabs', '1Mib'], ['--slabs', '0x10MiB'],
                 ['--slabs', '-1MiB'], ['--slabs', '99999999999999999999GiB'],
                 ['--capacity', '18446744073709551616'], ['--patience', '1e3us'],
                 ['--patience', '99999999999h'], ['--policy', 'wait'],
                 ['--mode', '9'], ['--mode', '0060'], ['--producers', '0'],
                 ['--producers', '-1'], ['--patience', '30'], ['--max-event', '1GiB'],
                 ['--node', 'local'], ['--sealed']):
        expect(2, b'geb create: ', 'create', 'no', *args)
    expect(2, b'not built yet', 'create', 'no', '--node', 'interleave')
    expect(2, b'unit', 'create', 'no', '--max-event', '4096')
    expect(2, b'64 or 128', 'create', 'no', '--capacity', '100')
    expect(2, b'A-Z', 'create', 'a b')
    expect(2, b'the first of them no . or -', 'create', '.hidden')
    expect(2, b'Usage', 'create')
    expect(2, b'Usage', 'create', 'a', 'b')
    expect(1, b'mkdir -p', 'create', path('none/no'))
    expect(1, b'mkdir -p', 'consume', path('none/no'))
    # Others may not write there, whatever the file system is.
    expect(1, b'findmnt -T /proc' if os.geteuid() == 0 else b'ls -la /proc', 'create', '/proc/no')
    expect(2, b'GEB_BUS', 'create')
    said = expect(2, b'A-Z', 'create', 'a\nb\033[31m').stderr
    check(b'\033' not in said and b'a?b?[31m' in said, b'nothing that a terminal obeys: ' + said)
    said = expect(3, b"$'none/a\\012b\\033\\047c'", 'info', "none/a\nb\033'c").stderr
    check(b'\033' not in said, said)
    check(not os.path.exists(path('no')), 'nothing was made in vain')


def ls():
    """lists buses, and nothing else"""
    expect(0, b'geb create', 'ls')
    geb('create', 'one')
    geb('create', 'two', '--policy', 'block', '--capacity', '64')
    with open(path('junk'), 'wb') as f:
        f.write(b'x' * 9000)
    lines = expect(0, 'NAME', 'ls').stdout.splitlines()
    check([row.split()[0] for row in lines] == [b'NAME', b'one', b'two'], f'{lines}')
    rows = [json.loads(row) for row in expect(0, '', 'ls', '--json').stdout.splitlines()]
    check([r['name'] for r in rows] == ['one', 'two'] and rows[1]['capacity'] == 64, f'{rows}')
    expect(2, b'geb info BUS', 'ls', 'one')
    expect(0, b'no bus in', 'ls', env={'GEB_DIR': path('none')})
    with open('/dev/full', 'wb') as full:
        expect(1, b'standard output', 'ls', stdout=full)
        expect(1, b'standard output', 'info', 'one', '--json', stdout=full)
        expect(1, b'standard output', 'doctor', stdout=full)
        for args in ([], ['pub'], ['tap']):
            expect(1, b'standard output', *args, '--help', stdout=full)
    os.unlink(path('junk'))


def ls_participants():
    """counts the producers that live, and names the consumer's process"""
    def row():
        return json.loads(geb('ls', '--json').stdout)

    geb('create', 'busy', '--policy', 'block')
    check((row()['producers'], row().get('consumer')) == (0, None), f'nobody yet: {row()}')
    producers = [start('pub', 'busy', 't', '--lines') for _ in range(3)]
    wait_for('three producers', lambda: row()['producers'] == 3)
    check('consumer' not in row(), 'no consumer')
    producers[0].kill()
    producers[0].wait()
    check(row()['producers'] == 2, f'a dead one is not counted: {row()}')
    consumer = start('consume', 'busy')
    wait_for('the consumer, by its pid', lambda: row().get('consumer') == consumer.pid)
    words = geb('ls').stdout.splitlines()[1].split()
    check(words[-2:] == [b'2', b'%d' % consumer.pid], f'as text: {words}')
    producers[1].communicate(timeout=60)
    wait_for('one is left', lambda: row()['producers'] == 1)
    consumer.kill()
    consumer.wait()
    check(geb('ls').stdout.split()[-1] == b'dead', 'a dead consumer is called so')
    producers[2].communicate(timeout=60)


def closed_streams():
    """without standard streams nothing is written into the bus that is open in their place"""
    def close_all():
        for fd in range(3):
            os.close(fd)

    geb('create', 'bare', '--policy', 'block')
    geb('pub', 'bare', 't', 'x')
    for args in (['consume', 'bare', '--count', '1'], ['info', 'bare'], ['create', 'new'], ['ls'],
                 ['tap', 'bare', '--oldest', '--timeout', '0s'], ['pub', 'bare', 't', '--lines'],
                 ['pub', 'bare', 't', '-'], ['doctor'], ['rm', 'none'], ['--help']):
        code = subprocess.run([GEB, *args], preexec_fn=close_all, check=False).returncode
        check(code == (3 if args[0] == 'rm' else 1), f'{args}: exit {code}')
    expect(0, 'x', 'consume', 'bare', '--count', '1')


def too_large():
    """a bus beyond the memory of the machine is refused before it takes any (root only)"""
    with open(path('meminfo'), 'w', encoding='ascii') as f:
        f.write('MemTotal: 1048576 kB\nMemAvailable: 98304 kB\n')
    with_32_mib = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /proc/meminfo && exec "$@"',
                   path('meminfo')]
    if subprocess.run([*with_32_mib, 'true'], check=False, stderr=subprocess.DEVNULL).returncode:
        print('--    skipped: no mount namespace')
    else:
        for args, code in ((['create', 'big', '--slabs', '64MiB'], 1),
                           (['create', 'small', '--slabs', '1MiB'], 0)):
            said = subprocess.run([*with_32_mib, GEB, *args], capture_output=True, check=False)
            check(said.returncode == code and os.path.exists(path(args[1])) == (code == 0),
                  f'{args}: exit {said.returncode}')
            check(code == 0 or b'32.0 MiB of memory are available' in said.stderr,
                  b'it says ' + said.stderr)
    os.unlink(path('meminfo'))


def in_tmpfs(options, command):
    """geb with an own tmpfs of these mount options for its buses, or None if that cannot be"""
    own = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"',
           options, path('mount')]
    if subprocess.run([*own, 'true'], check=False, stderr=subprocess.DEVNULL).returncode:
        return None
    return subprocess.run([*own, *command], capture_output=True, check=False,
                          env={**os.environ, 'GEB_DIR': path('mount')})


def unfit_file_systems():
    """a read-only file system, and one without inodes, are called so (root only)"""
    os.mkdir(path('mount'))
    old = 'create old --capacity 64 --slabs 0B'
    make = '"$0" ' + old
    remount = 'mount -o remount,ro "$GEB_DIR"'
    for options, before, args, words, todo in (
            ('size=2m', 'true', 'create new', b'is read-only', b'findmnt -T '),
            ('size=2m', make, old, b'is read-only', b'findmnt -T '),
            ('size=2m', make, 'pub old t x', b'is read-only', b'findmnt -T '),
            ('size=2m', make, 'consume old', b'is read-only', b'findmnt -T '),
            ('size=2m', make, 'rm old', b'is read-only', b'findmnt -T '),
            ('nr_inodes=1', '', 'create new', b'no inodes left', b'df -i ')):
        said = in_tmpfs(options, ['sh', '-c', (f'{before} && {remount} && ' if before else '') +
                                  'exec "$0" ' + args, GEB])
        if said is None:
            print('--    skipped: no mount namespace')
            break
        check(said.returncode == 1 and words in said.stderr and
              todo + path('mount').encode() in said.stderr and b'owner' not in said.stderr and
              b'full' not in said.stderr, f'{args}: {said.returncode} {said.stderr}')
    os.rmdir(path('mount'))


def rm():
    """refuses while participants live, and names them; --force does not"""
    geb('create', 'used')
    consumer = start('consume', 'used')
    consumer_is_there('used')
    producer = start('pub', 'used', 't', '--lines', '--name', 'feeder')
    wait_for('a producer', lambda: b'feeder' in geb('info', 'used').stdout)
    refused = expect(1, b'it is in use', 'rm', 'used')
    for word in (f'process {consumer.pid} ', f'process {producer.pid} (feeder)',
                 'geb rm --force used'):
        check(word.encode() in refused.stderr, f'it names {word}')
    forced = expect(0, b'from under', 'rm', '--force', 'used')
    check(b'feeder' in forced.stderr and not os.path.exists(path('used')), '--force removes it')
    producer.stdin.write(b'still here\n')
    check(end(producer, 'the producer goes on', 0) == b'', 'and publishes')
    check(consumer.stdout.readline() == b'still here\n', 'and the event arrives')
    consumer.send_signal(signal.SIGINT)
    check(end(consumer, 'the consumer goes on too', 0) == b'', 'and nothing else')
    expect(3, b'geb ls', 'rm', 'used')
    expect(3, b'geb ls', 'rm', '--force', 'used')
    expect(2, b'Usage', 'rm')
    geb('create', 'idle')
    expect(0, '', 'rm', 'idle')
    check(not os.path.exists(path('idle')), 'an unused bus is removed')


def rm_without_rows():
    """who has no row is named, too: a standby, who repairs the bus, a stranger"""
    for first, cnt, kind, word in ((1 << 21, 1, fcntl.F_WRLCK, b'in use by a standby'),
                                   (1 << 20, 1, fcntl.F_WRLCK, b'is being repaired'),
                                   (0, 2, fcntl.F_RDLCK, b'takes no part')):
        geb('create', 'held', '--capacity', '64')
        with open(path('held'), 'r+b') as f:
            lock = struct.pack('hhqqi4x', kind, os.SEEK_SET, first, cnt, 0)
            fcntl.fcntl(f, 37, lock)  # F_OFD_SETLK
            expect(1, word, 'rm', 'held')
            said = expect(0, b'from under', 'rm', '--force', 'held').stderr
            check(word in said, b'--force says whom: ' + said)
        check(not os.path.exists(path('held')), 'and removes it')


def no_buses():
    """files that are no buses, damaged ones, and those of another version"""
    geb('create', 'old', '--capacity', '64')
    geb('create', 'torn', '--capacity', '64')
    with open(path('old'), 'r+b') as f:
        f.seek(8)
        f.write((77).to_bytes(4, 'little'))
    os.truncate(path('torn'), 8192)
    with open(path('junk'), 'wb') as f:
        f.write(b'\0' * 9000)
    os.symlink(path('junk'), path('link'))
    for args in (['info', 'old'], ['pub', 'old', 't', 'x'], ['consume', 'old'], ['rm', 'old'],
                 ['create', 'old'], ['tap', 'old']):
        expect(4, b'geb rm --force old', *args)
    for args in (['info', 'junk'], ['pub', 'junk', 't', 'x'], ['consume', 'junk'],
                 ['rm', 'junk'], ['info', 'link'], ['info', 'torn']):
        expect(1, b'is not a bus', *args)
    os.mkdir(path('dir'))
    for name, command in (('junk', 'rm ' + path('junk')), ('link', 'rm ' + path('link')),
                          ('dir', 'rmdir ' + path('dir')), ('torn', 'geb rm --force torn')):
        expect(1, f'to remove it:  {command}\n'.encode(), 'info', name)
    os.rmdir(path('dir'))
    stale = {os.path.basename(s['path']): s for s in doctor()['stale']}
    check(set(stale) == {'old', 'torn', 'junk', 'link'}, f'doctor lists them: {stale}')
    check(stale['old'].get('layout_version') == 77, 'with the layout version')
    check(doctor()['problems'] == 4, 'four problems')
    for word in ('layout version 77', 'geb rm --force', 'junk'):
        expect(0, word, 'doctor')
    expect(0, b'layout version 77', 'ls')
    expect(1, b'is no bus, so it stays', 'rm', '--force', 'junk')
    expect(1, b'is no bus, so it stays', 'rm', '--force', 'link')
    expect(0, '', 'rm', '--force', 'old')
    expect(0, '', 'rm', '--force', path('torn'))
    check(sorted(os.listdir(os.environ['GEB_DIR'])) == ['junk', 'link'], 'foreign files stay')
    os.unlink(path('link'))
    os.unlink(path('junk'))


def dead_owners():
    """doctor names the dead; a consumer brings back what they had"""
    geb('create', 'ward', '--capacity', '64', '--policy', 'block')
    producer = start('pub', 'ward', 't', '--lines', '--name', 'patient')
    wait_for('a producer', lambda: b'patient' in geb('info', 'ward').stdout)
    check(doctor()['buses'][0]['dead'] == [], 'nobody is dead')
    producer.kill()
    producer.wait()
    found = doctor()
    check([(d['role'], d['pid'], d['name']) for d in found['buses'][0]['dead']] ==
          [('producer', producer.pid, 'patient')] and found['problems'] == 1,
          f'doctor names the dead: {found["buses"]}')
    expect(0, 'patient', 'doctor', 'ward')
    consumer = start('consume', 'ward')
    wait_for('the slot comes back', lambda: doctor()['buses'][0]['dead'] == [])
    consumer.kill()
    consumer.wait()
    check([d['role'] for d in doctor()['buses'][0]['dead']] == ['consumer'], 'a dead consumer')
    geb('consume', 'ward', '--timeout', '0s')
    check(doctor()['problems'] == 0, 'the next one takes its place')


def machine():
    """doctor --json has what the machine offers, each from where the kernel says it"""
    geb('create', 'fit', '--capacity', '64')
    seen = doctor()
    space = os.statvfs(os.environ['GEB_DIR'])
    check(seen['directory']['path'] == os.environ['GEB_DIR'] and
          seen['directory']['bytes'] == space.f_blocks * space.f_frsize, f'{seen["directory"]}')
    check(seen['directory']['free_bytes'] <= seen['directory']['bytes'], 'free space')
    check(seen['shm']['path'] == '/dev/shm' and 'exists' in seen['shm'], f'{seen["shm"]}')
    with open('/proc/self/limits', encoding='ascii') as f:
        soft = next(line for line in f if line.startswith('Max locked memory')).split()[3]
    check(seen['memlock_bytes'] == (None if soft == 'unlimited' else int(soft)),
          f'memlock {soft}: {seen["memlock_bytes"]}')
    with open('/proc/meminfo', encoding='ascii') as f:
        huge = {k: int(v.split()[0]) for k, v in (line.split(':') for line in f) if 'uge' in k}
    check(seen['huge_pages']['total'] == huge.get('HugePages_Total', 0), f'{seen["huge_pages"]}')
    check(isinstance(seen['io_uring']['available'], bool), f'io_uring: {seen["io_uring"]}')
    check([b['name'] for b in seen['buses']] == ['fit'] and seen['problems'] == 0, 'the buses')
    for word in ('/dev/shm', 'memory that may be locked', 'huge pages', 'io_uring', 'fit'):
        expect(0, word, 'doctor')
    expect(2, b'--fix', 'doctor', '--remove-unused')
    expect(3, b'geb create', 'doctor', 'nowhere')


def other_user():
    """another user is kept out by the mode of the file, and told so (root only)"""
    nobody = 65534
    try:
        if os.geteuid() != 0:
            raise PermissionError('not root')
        subprocess.run([GEB, '--version'], user=nobody, stdout=subprocess.DEVNULL, check=True)
    except (PermissionError, subprocess.SubprocessError) as why:
        print(f'--    skipped: {why}')
        return
    geb('create', 'mine', '--capacity', '64')
    os.chmod(os.environ['GEB_DIR'], 0o755)
    listed = expect(0, b'mine: no permission', 'ls', user=nobody)
    check(b'there is no bus' not in listed.stderr, 'a bus that it must not look at is one')
    for mode, where, why in ((0o755, path('mine'), 'cannot be looked at: no permission'),
                             (0o711, os.environ['GEB_DIR'], 'cannot be listed: no permission'),
                             (0o700, os.environ['GEB_DIR'], 'cannot be listed: no permission')):
        os.chmod(os.environ['GEB_DIR'], mode)
        said = expect(0, f'none that could be looked at in {os.environ["GEB_DIR"]}', 'doctor',
                      user=nobody).stdout.decode()
        check(f'{where}\n         {why}\n' in said, f'doctor says why: {said}')
        seen = json.loads(geb('doctor', '--json', user=nobody).stdout)
        check([(s['path'], s['why']) for s in seen['stale']] == [(where, why)] and
              seen['directory']['exists'] is True, f'also in JSON: {seen["stale"]}')
    inside = path('deeper')  # in a directory that it must not enter
    expect(0, 'could be looked at', 'doctor', user=nobody, env={'GEB_DIR': inside})
    seen = json.loads(geb('doctor', '--json', user=nobody, env={'GEB_DIR': inside}).stdout)
    check(seen['directory'] == {'path': inside, 'exists': None, 'why': 'Permission denied'},
          f'nobody knows whether there is one: {seen["directory"]}')
    expect(0, f'none in {inside}', 'doctor', env={'GEB_DIR': inside})
    os.chmod(os.environ['GEB_DIR'], 0o711)
    geb('create', 'ours', '--capacity', '64', '--mode', '0666', '--policy', 'block')
    for args in (['info', 'mine'], ['pub', 'mine', 't', 'x'], ['consume', 'mine'], ['rm', 'mine'],
                 ['rm', '--force', 'mine'], ['rm', '--force', 'ours'], ['create', 'new']):
        expect(1, b'ermission', *args, user=nobody)
    expect(1, b'ls -la ' + os.environ['GEB_DIR'].encode(), 'info', path('mine'), user=nobody,
           env={'GEB_DIR': ''})
    expect(0, '', 'pub', 'ours', 't', 'from nobody', user=nobody)
    check(expect(0, 'from nobody', 'consume', 'ours', '--count', '1').returncode == 0, 'it came')


run(help_texts, create, ls, ls_participants, closed_streams, too_large, unfit_file_systems, rm,
    rm_without_rows, no_buses, dead_owners, machine, other_user)
