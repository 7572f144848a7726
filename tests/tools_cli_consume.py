#!/usr/bin/env python3
"""Goal: geb consume prints every event once, whole and in order, and loses none that it can keep:
when its reader goes away, its disk is full, or it is interrupted; a standby takes its place.

Method: pub into consume through pipes and files, byte for byte; outputs that break at once, in the
middle, or after the last event; what is left in the bus afterwards.
"""
import base64
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
from cli_support import (BUILD, LONG, GEB, check, consumer_is_there, end, expect, geb,  # noqa: E402
                         path, run, start, stop, wait_for)


def pending(bus):
    return json.loads(geb('info', bus, '--json').stdout)['pending']


def geb_top(bus):
    run_it = [os.path.join(BUILD, 'tools', 'geb-top'), bus, '--once', '--json']
    return subprocess.run(run_it, stdout=subprocess.PIPE, check=False, timeout=60).stdout


def created_by_it():
    """without a bus it makes one, as geb create does without options"""
    expect(5, b'created the bus "new"', 'consume', 'new', '--timeout', '1ms')
    expect(0, b'existed already', 'create', 'new')
    geb('pub', 'new', 'a', '1')
    geb('pub', 'new', 'b', '2')
    geb('pub', 'new', 'c', '3')
    check(expect(0, '', 'consume', 'new', 'a', 'c', 'a', '--count', '2').stdout == b'1\n3\n',
          'the topics asked for, each event once')
    holder = start('consume', 'new')
    consumer_is_there('new')
    expect(1, str(holder.pid).encode(), 'consume', 'new')
    holder.send_signal(signal.SIGINT)
    check(end(holder, 'Ctrl-C', 0) == b'', 'prints nothing')
    for args in ([], ['new', '--count', '0'], ['new', '--timeout', '5'], ['new', '--workers'],
                 ['new', '--workers', '2'], ['new', '--what']):
        expect(2, b'', 'consume', *args)
    expect(2, b'not built yet', 'consume', 'new', '--workers', '2')
    expect(1, b'', 'consume', 'new', 'x' * 48)
    expect(1, b'', 'consume', 'no bus')


def as_json():
    """one object a line; any bytes come back"""
    geb('create', 'json', '--policy', 'block')
    chosen = [bytes([i]) for i in range(256)] + [
        b'', b'\0' * 40, 'é€𝄞'.encode(), b'\xc0\x80', b'\xed\xa0\x80', b'\xf4\x90\x80\x80',
        b'\xe2\x82', b'\xf0\x9f\x92', bytes(range(256)), b'"\\/\b\f\n\r\t\x7f', b'ab', b'abc\xff']
    for data in chosen:
        geb('pub', 'json', 't', '-', stdin=data)
    out = expect(0, '', 'consume', 'json', '--json', '--count', str(len(chosen))).stdout
    events = [json.loads(line) for line in out.splitlines()]
    keys = ['position', 'topic', 'producer', 'number', 'key', 'id', 'redelivered', 'attempt']
    for event, data in zip(events, chosen):
        is_text = True
        try:
            data.decode()
        except UnicodeDecodeError:
            is_text = False
        there = set(event) == set(keys) | {'data' if is_text else 'data_base64'}
        back = event['data'].encode() if is_text else base64.b64decode(event['data_base64'])
        if not there or back != data:
            check(False, f'{data[:20]!r}: {event}')
    check(len(events) == len(chosen), f'{len(events)} events of any bytes')
    check(len({e['position'] for e in events}) == len(events), 'each has its position')


def make_input(name, size):
    """Makes a file of lines: any byte but newline, most of them short, some of 64 KiB. Returns how
    many lines it has."""
    rng = random.Random(11)
    block = bytearray()
    while len(block) < 2000000:
        kind = rng.randrange(1000)
        length = (65536 if kind == 0 else 0 if kind < 20 else rng.randrange(33) if kind < 500
                  else rng.randrange(250))
        block += rng.randbytes(length).replace(b'\n', b'\0') + b'\n'
    with open(name, 'wb') as f:
        for _ in range(max(1, size // len(block))):
            f.write(block)
    return max(1, size // len(block)) * block.count(b'\n')


def digest(stream):
    sha, size = hashlib.sha256(), 0
    while data := stream.read(1 << 20):
        sha.update(data)
        size += len(data)
    return sha.hexdigest(), size


def piped(name, count, reader, *options):
    """pub --lines into consume into what reader does with the pipe; returns its result."""
    geb('create', 'pipe', '--policy', 'block')
    consumer = start('consume', 'pipe', '--count', str(count), *options)
    with open(name, 'rb') as f:
        publisher = start('pub', 'pipe', 'log', '--lines', stdin=f)
    result = reader(consumer.stdout)
    end(consumer, 'the consumer', 0)
    end(publisher, 'the publisher', 0)
    check(geb('rm', 'pipe').returncode == 0, 'nobody is left')
    return result


def wc(stream):
    counted = subprocess.run(['wc', '-c'], stdin=stream, stdout=subprocess.PIPE, check=True)
    return int(counted.stdout)


def timed(what, size, work):
    begun = time.monotonic()
    check(work() == size, f'{what}: {size:,} bytes')
    return time.monotonic() - begun


def beside_cat(name, size, count):
    """The same bytes through cat | wc -c, in turns. Figures, no verdict: times depend on others."""
    def cat():
        with subprocess.Popen(['cat', name], stdout=subprocess.PIPE) as process:
            return wc(process.stdout)

    for _ in range(3):
        plain = timed('cat | wc -c', size, cat)
        through = timed('pub | consume | wc -c', size, lambda: piped(name, count, wc))
        print(f'      cat | wc {plain:.2f} s, {size / plain / 1e6:,.0f} MB/s; pub | consume | wc '
              f'{through:.2f} s, {size / through / 1e6:,.0f} MB/s, '
              f'{count / through / 1e6:.2f} million lines/s; {through / plain:.1f} times as long',
              flush=True)


def byte_for_byte():
    """pub --lines into consume: the same bytes, in order"""
    with tempfile.TemporaryDirectory(prefix='geb-test-') as directory:
        name = os.path.join(directory, 'input')
        count = make_input(name, 1000000000 if LONG else 20000000)
        with open(name, 'rb') as f:
            want = digest(f)
        for options in ([],) if LONG else ([], ['--unbuffered']):
            got = piped(name, count, digest, *options)
            check(got == want, f'{want[1]:,} bytes, {count:,} lines {options}: {got[1]:,} came')
        if LONG:
            beside_cat(name, want[1], count)


def drops():
    """what a full bus dropped meanwhile is told: exit 6"""
    geb('create', 'small', '--capacity', '4')
    consumer = start('consume', 'small', '--count', '21')
    geb('pub', 'small', 't', 'first')
    check(consumer.stdout.readline() == b'first\n', 'it consumes')
    stop(consumer)
    geb('pub', 'small', 't', '--lines', stdin=b''.join(b'%d\n' % i for i in range(100)))
    consumer.send_signal(signal.SIGCONT)
    wait_for('it took what is left', lambda: pending('small') == 0)
    for _ in range(16):  # one after the other, so that none is dropped
        geb('pub', 'small', 't', 'x')
        wait_for('it took this one', lambda: pending('small') == 0)
    out = end(consumer, 'drops', 6, b'dropped 96 events')
    check(out == b'96\n97\n98\n99\n' + b'x\n' * 16, f'the newest came: {out[:80]}')


def reader_gone():
    """a reader that closes the pipe ends it with 0; what was not printed stays in the bus"""
    geb('create', 'gone', '--policy', 'block')
    consumer = start('consume', 'gone')
    geb('pub', 'gone', 't', 'one')
    check(consumer.stdout.readline() == b'one\n', 'an event is printed at once')
    consumer.stdout.close()
    check(consumer.wait(60) == 0, 'it ends without another event')
    check(consumer.stderr.read() == b'', 'and has nothing to complain about')
    geb('pub', 'gone', 't', '--lines', stdin=b'%d\n' * 10 % tuple(range(10)))
    reader, writer = os.pipe()
    os.close(reader)
    check(geb('consume', 'gone', stdout=writer).returncode == 0, 'a pipe that is closed already')
    os.close(writer)
    out = geb('consume', 'gone', '--count', '10').stdout
    check(out == b''.join(b'%d\n' % i for i in range(10)), f'all ten are still there: {out}')
    shell = f'{GEB} pub gone t x --count 30000; {GEB} consume gone | head -n 3'
    out = os.popen(shell).read()
    check(out == 'x\n' * 3, 'consume | head -n 3')
    left = pending('gone')
    check(30000 - 64 - 3 * 32768 // 2 <= left < 30000, f'{left} of 30,000 stay')


def disk_full():
    """no room: exit 1, a message, and the event in hand comes again"""
    geb('create', 'full', '--policy', 'block')
    lines = [b'%05d' % i + b'.' * 94 for i in range(5000)]
    geb('pub', 'full', 't', '--lines', stdin=b'\n'.join(lines) + b'\n')
    with open('/dev/full', 'wb') as full:
        for options in ([], ['--json'], ['--count', '1'], ['--unbuffered']):
            expect(1, b'No space left', 'consume', 'full', *options, stdout=full)
    check(pending('full') == 5000, 'all are still there')

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200050, 200050))

    for options, exact in ((['--unbuffered'], True), ([], False)):
        with open(path('out'), 'wb') as out:
            said = expect(1, b'cannot write', 'consume', 'full', *options, stdout=out,
                          preexec_fn=small_files).stderr
        with open(path('out'), 'rb') as f:
            printed = f.read().split(b'\n')[:-1]
        left = geb('consume', 'full', '--timeout', '0s').stdout.split(b'\n')[:-1]
        check(left and left == lines[-len(left):], f'{options}: the rest is there, {len(left)}')
        check(printed == lines[:len(printed)], f'{len(printed)} lines were printed')
        missing = 5000 - len(printed) - len(left)
        if exact:
            check(missing == 0, 'each line was printed or is there')
        else:
            told = [int(w.replace(',', '')) for w in said.decode().split()
                    if w.replace(',', '').isdigit()]
            check(0 <= missing <= told[0] <= 700, f'{missing} are missing, it says {told[0]}')
        geb('pub', 'full', 't', '--lines', stdin=b'\n'.join(lines) + b'\n')
    os.unlink(path('out'))


def interrupted():
    """Ctrl-C: idle, under load, before the count, and with a reader that does not read"""
    geb('create', 'ctrl', '--policy', 'block')
    idle = start('consume', 'ctrl', '--count', '3')
    consumer_is_there('ctrl')
    geb('pub', 'ctrl', 't', 'x')
    check(idle.stdout.readline() == b'x\n', 'one came')
    idle.send_signal(signal.SIGINT)
    end(idle, 'before its count', 1, b'interrupted after 1 of 3')
    busy = start('consume', 'ctrl')  # under block nothing is dropped, whatever the account says
    publisher = start('pub', 'ctrl', 't', '--lines', '--timeout', '30s')
    total = 300000
    text = b''.join(b'%d\n' % i for i in range(total))
    feeder = threading.Thread(target=lambda: publisher.communicate(text))
    feeder.start()
    first = os.read(busy.stdout.fileno(), 100000)  # below the buffer, which communicate passes by
    busy.send_signal(signal.SIGTERM)
    printed = first + end(busy, 'under load', 0)
    rest = geb('consume', 'ctrl', '--count', str(total - printed.count(b'\n'))).stdout
    feeder.join()
    check(printed + rest == text, f'{len(printed)} bytes before, {len(rest)} after: none is lost')
    stuck = start('consume', 'ctrl')
    geb('pub', 'ctrl', 't', '-', '--count', '4', stdin=b'y' * 60000)
    wait_for('it is stuck in write', lambda: b'pipe_write' in wchan(stuck.pid) or
             pending('ctrl') <= 3)
    stuck.send_signal(signal.SIGINT)
    check(stuck.wait(60) in (0, 1), f'a reader that does not read: exit {stuck.returncode}')


def wchan(pid):
    try:
        with open(f'/proc/{pid}/wchan', 'rb') as f:
            return f.read()
    except OSError:
        return b''


def timeouts():
    """--timeout ends it in any case"""
    geb('create', 'late', '--policy', 'block')
    geb('pub', 'late', 't', 'x', '--count', '3')
    # How many of them it gets to within the time is up to the machine; the rest stays.
    late = expect(5, b'timeout after ', 'consume', 'late', '--timeout', '200ms', '--count', '5')
    came = int(late.stderr.split()[-2])
    check(late.stdout == b'x\n' * came, f'what came is printed: {late}')
    check(pending('late') == 3 - came, f'and what did not is there: {pending("late")}')
    check(expect(5, f'after {3 - came} events'.encode(), 'consume', 'late', '--timeout', '0s',
                 '--count', '5').stdout == b'x\n' * (3 - came), 'for the next one')
    expect(5, b'timeout', 'consume', 'late', '--timeout', '1ms')
    expect(5, b'timeout', 'consume', 'late', '--timeout', '0s')
    geb('pub', 'late', 't', 'x')
    expect(0, 'x', 'consume', 'late', '--timeout', '60s', '--count', '1')


def standby():
    """--standby goes on in the place of a consumer that was killed"""
    first = start('consume', 'pair', '--standby')  # there is no bus: it makes one
    consumer_is_there('pair')
    second = start('consume', 'pair', '--standby', '--count', '2')
    wait_for('the second waits', lambda: b'"standby":true' in geb_top('pair'))
    expect(1, b'one standby', 'consume', 'pair', '--standby')
    check('standby' in geb('info', 'pair').stdout.decode(), 'geb info shows it')
    geb('pub', 'pair', 't', 'one')
    check(first.stdout.readline() == b'one\n', 'the consumer consumes')
    first.kill()
    first.wait()
    geb('pub', 'pair', 't', 'two')
    geb('pub', 'pair', 't', 'three')
    check(end(second, 'the standby', 0) == b'two\nthree\n', 'and then the standby')
    geb('pub', 'pair', 't', 'four')
    expect(0, 'four', 'consume', 'pair', '--standby', '--count', '1')
    holder = start('consume', 'pair')
    consumer_is_there('pair')
    expect(5, b'timeout after 0', 'consume', 'pair', '--standby', '--timeout', '0s')
    expect(5, b'timeout after 0', 'consume', 'pair', '--standby', '--timeout', '20ms')
    waiting = start('consume', 'pair', '--standby')
    wait_for('it waits', lambda: b'"standby":true' in geb_top('pair'))
    waiting.send_signal(signal.SIGINT)
    check(end(waiting, 'Ctrl-C while it waits', 0) == b'', 'it prints nothing')
    check(b'"standby":false' in geb_top('pair'), 'and waits no more')
    holder.send_signal(signal.SIGINT)
    end(holder, 'the consumer', 0)
    check(b'--standby' in geb('consume', '--help').stdout, 'geb consume --help')


run(standby, created_by_it, as_json, byte_for_byte, drops, reader_gone, disk_full, interrupted,
    timeouts)
