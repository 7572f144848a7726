#!/usr/bin/env python3
"""Goal: geb tap prints what goes by, says exactly what it missed, and takes part in nothing.

Method: taps from the oldest event on, so that no event is too early for them, beside consumers that
run, are killed, or are not there; one that is stopped while the ring goes round; what it missed is
worked out from the numbers in its own output. A tap whose user may only read.
"""
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from cli_support import (GEB, check, consumer_is_there, end, expect, geb, path, run,  # noqa: E402
                         start, stop, top, wait_for)


def read_until(process, last):
    """The lines that it prints, up to the one with the data `last`."""
    lines = []
    while not lines or json.loads(lines[-1]).get('data') != last:
        line = process.stdout.readline()
        if not line:
            check(False, f'it ends before it prints {last!r}')
            break
        lines.append(line)
    return [json.loads(line) for line in lines]


def reads_all():
    """every event, in order and byte for byte, beside a consumer; twice at the same time"""
    text = b''.join(b'%d\n' % i for i in range(100000))
    geb('create', 'all', '--policy', 'block')
    outs = [tempfile.TemporaryFile() for _ in range(3)]
    commands = (['consume', 'all'], ['tap', 'all', '--oldest'], ['tap', 'all', '--oldest'])
    readers = [start(*command, '--count', '100000', stdout=out)
               for command, out in zip(commands, outs)]
    check(geb('pub', 'all', 'n', '--lines', stdin=text).returncode == 0, 'published')
    for process, out, what in zip(readers, outs, ('the consumer', 'a tap', 'another tap')):
        end(process, what, 0)
        out.seek(0)
        check(out.read() == text, f'{what} printed all')
        out.close()
    large = bytes(range(1, 10)) * 700 + b'\n'
    geb('pub', 'all', 'l', '--lines', stdin=large * 1000)
    check(geb('tap', 'all', 'l', '--oldest', '--count', '1000').stdout == large * 1000,
          'large events that nobody consumed yet')
    check(expect(0, '', 'consume', 'all', '--count', '1000').stdout == large * 1000,
          'and the consumer gets them all the same')


def as_json():
    """the same object a line as of consume, any bytes"""
    geb('create', 'json', '--policy', 'block')
    chosen = [b'', b'plain', b'"\\\n\t\x7f', 'é€𝄞'.encode(), b'\xff\xfe', b'\0' * 40]
    for data in chosen:
        geb('pub', 'json', 'a "topic"', '-', '--key', '7', '--id', '9', stdin=data)
    tapped = geb('tap', 'json', '--oldest', '--json', '--count', str(len(chosen))).stdout
    rows = [json.loads(line) for line in tapped.splitlines()]
    back = [r['data'].encode() if 'data' in r else base64.b64decode(r['data_base64'])
            for r in rows]
    check(back == chosen and 'data_base64' in rows[4], f'any bytes: {back}')
    check({(r['topic'], r['key'], r['id']) for r in rows} == {('a "topic"', 7, 9)}, f'{rows[0]}')
    taken = geb('consume', 'json', '--json', '--count', str(len(chosen))).stdout
    check(taken == tapped, 'consume prints the same')


def topics():
    """only the TOPICs asked for count"""
    geb('create', 'topics')
    for i in range(4):
        for topic in ('a', 'b', "it's $(odd)\n"):
            geb('pub', 'topics', topic, f'{topic}{i}')
    for wanted, want in ((['b'], 'b0\nb1\nb2\nb3\n'),
                         (['b', 'a', 'b'], 'a0\nb0\na1\nb1\na2\nb2\na3\nb3\n'),
                         (["it's $(odd)\n"], "".join(f"it's $(odd)\n{i}\n" for i in range(4))),
                         (['none'], '')):
        out = expect(5, b'timeout', 'tap', 'topics', *wanted, '--oldest', '--timeout', '0s').stdout
        check(out.decode() == want, f'{wanted}: {out}')
    check(expect(0, 'b0\n', 'tap', 'topics', 'b', '--oldest', '--count', '1').stdout == b'b0\n',
          '--count 1')
    preset = {'GEB_BUS': 'topics'}
    check(expect(5, b'', 'tap', 'a', '--oldest', '--timeout', '0s', env=preset).stdout ==
          b'a0\na1\na2\na3\n', 'GEB_BUS: all arguments are TOPICs')
    expect(5, b'', 'tap', '--bus', 'topics', 'a', '--timeout', '0s', env={'GEB_BUS': 'none'})


def numbers_in(text):
    return [int(n.replace(b',', b'')) for n in re.findall(rb'\d[\d,]*', text)]


def missed():
    """what went by while it was stopped is told by position and by producer number: exit 6"""
    geb('create', 'fast', '--capacity', '8')
    tap = start('tap', 'fast', '--oldest', '--json')
    geb('pub', 'fast', 't', 'begin')
    rows = read_until(tap, 'begin')
    stop(tap)
    feeder = start('pub', 'fast', 't', '--lines', '--name', 'feeder')
    wait_for('the feeder', lambda: b'feeder' in geb('info', 'fast').stdout)
    other = start('pub', 'fast', 't', '--lines', '--name', 'other')
    wait_for('the other', lambda: b'other' in geb('info', 'fast').stdout)
    for producer, cnt, total in ((feeder, 200, 201), (other, 100, 301)):
        producer.stdin.write(b'x\n' * cnt)
        producer.stdin.flush()
        wait_for('its events', lambda: accepted('fast') == total)
    tap.send_signal(signal.SIGCONT)
    other.stdin.write(b'end\n')
    other.stdin.flush()
    rows += read_until(tap, 'end')
    tap.send_signal(signal.SIGINT)
    _, said = tap.communicate(timeout=60)
    check(tap.returncode == 6, f'exit {tap.returncode}')
    total = {1: 201, 2: 101}
    seen = {slot: [r['number'] for r in rows if r['producer'] == slot] for slot in total}
    lost = {slot: sorted(set(range(1, cnt + 1)) - set(seen[slot])) for slot, cnt in total.items()}
    lines = said.splitlines()
    check(numbers_in(lines[0]) == [sum(map(len, lost.values())), len(rows)],
          b'all that was missed: ' + lines[0])
    positions = numbers_in(lines[1])
    gaps = [r for r in range(rows[0]['position'], rows[-1]['position'])
            if r not in {row['position'] for row in rows}]
    check(positions == [len(gaps), gaps[0], gaps[-1]], b'the positions: ' + lines[1])
    for slot, name in ((1, b'feeder'), (2, b'other')):
        line = next(text for text in lines if b'producer %d ' % slot in text)
        check(name in line and numbers_in(line) ==
              [slot, len(lost[slot]), total[slot], lost[slot][0], lost[slot][-1]], line)
    for producer in (feeder, other):
        end(producer, 'a publisher', 0)


def accepted(bus):
    return json.loads(top(bus, '--once', '--json').stdout)['account']['accepted']


def beside_a_killed_consumer():
    """a consumer that dies, and the next one, are nothing to a tap"""
    geb('create', 'ward', '--policy', 'block')
    lines = [b'%d\n' % i for i in range(50000)]
    with tempfile.TemporaryFile() as out:
        tap = start('tap', 'ward', '--oldest', '--count', '50000', stdout=out)
        for part in (lines[:25000], lines[25000:]):
            consumer = start('consume', 'ward', stdout=subprocess.DEVNULL)
            consumer_is_there('ward')
            publisher = start('pub', 'ward', 't', '--lines')
            publisher.stdin.write(b''.join(part))
            publisher.stdin.flush()
            consumer.kill()
            consumer.wait()
            end(publisher, 'the publisher', 0)
        end(tap, 'the tap', 0)
        out.seek(0)
        check(out.read() == b''.join(lines), 'it printed all of it')


def takes_part_in_nothing():
    """its map is read-only, nobody sees it, and a bus can be removed beside it"""
    geb('create', 'still', '--policy', 'block')
    geb('pub', 'still', 't', 'x')
    with open(path('still'), 'rb') as f:
        before = f.read()
    tap = start('tap', 'still', '--oldest')
    check(tap.stdout.readline() == b'x\n', 'it reads')
    with open(f'/proc/{tap.pid}/maps', encoding='ascii', errors='replace') as f:
        kinds = {line.split()[1] for line in f if path('still') in line}
    check(kinds == {'r--s'}, f'mapped {kinds}')
    for fd in os.listdir(f'/proc/{tap.pid}/fd'):
        if os.readlink(f'/proc/{tap.pid}/fd/{fd}') == path('still'):
            with open(f'/proc/{tap.pid}/fdinfo/{fd}', encoding='ascii') as f:
                flags = int(next(line for line in f if line.startswith('flags:')).split()[1], 8)
            check(flags & os.O_ACCMODE == os.O_RDONLY, f'opened with {flags:o}')
    with open(path('still'), 'rb') as f:
        check(f.read() == before, 'no byte of the bus has changed')
    check(json.loads(geb('info', 'still', '--json').stdout)['participants'] == [],
          'it is no participant')
    expect(0, '', 'rm', 'still')
    tap.send_signal(signal.SIGINT)
    end(tap, 'Ctrl-C', 0)


def ends():
    """timeouts, Ctrl-C, a reader that goes away, a full disk, wrong use"""
    geb('create', 'ends')
    expect(5, b'after 0 events', 'tap', 'ends', '--timeout', '50ms')
    expect(5, b'after 0 events', 'tap', 'ends', '--timeout', '0s', '--count', '2')
    geb('pub', 'ends', 't', 'x', '--count', '3')
    check(expect(5, b'after 3 events', 'tap', 'ends', '--oldest', '--timeout', '0s', '--count',
                 '4').stdout == b'x\n' * 3, 'what there is is printed')
    # How many of them it gets to within the time is up to the machine.
    late = expect(5, b'timeout after ', 'tap', 'ends', '--oldest', '--timeout', '50ms', '--count',
                  '4')
    check(late.stdout == b'x\n' * numbers_in(late.stderr)[0], f'what came is printed: {late}')
    expect(0, 'x', 'tap', 'ends', '--oldest', '--timeout', '60s', '--count', '3')
    early = start('tap', 'ends', '--oldest', '--count', '4')
    check(early.stdout.readline() == b'x\n', 'it has begun')
    early.send_signal(signal.SIGTERM)
    end(early, 'a signal before the count', 1, b'interrupted after 3 of 4')
    gone = start('tap', 'ends', '--oldest')
    check(gone.stdout.readline() == b'x\n', 'an event is printed at once')
    gone.stdout.close()
    check(gone.wait(60) == 0, 'a reader that goes away ends it, also without another event')
    with open('/dev/full', 'wb') as full:
        expect(1, b'No space left', 'tap', 'ends', '--oldest', '--timeout', '0s', stdout=full)
    for args in ([], ['ends', '--count', '0'], ['ends', '--timeout', '5'], ['ends', '--what'],
                 ['ends', '--timeout', '-1s']):
        expect(2, b'', 'tap', *args)
    expect(2, b'GEB_BUS', 'tap')
    expect(1, b'1 to 47', 'tap', 'ends', '')
    expect(1, b'1 to 47', 'tap', 'ends', 'x' * 48)
    expect(3, b'geb create nowhere', 'tap', 'nowhere')
    expect(1, b'is not a bus', 'tap', '/dev/null')


def other_user():
    """who may only read the file may tap, and cannot do anything else (root only)"""
    nobody = 65534
    try:
        if os.geteuid() != 0:
            raise PermissionError('not root')
        subprocess.run([GEB, '--version'], user=nobody, stdout=subprocess.DEVNULL, check=True)
    except (PermissionError, subprocess.SubprocessError) as why:
        print(f'--    skipped: {why}')
        return
    os.chmod(os.environ['GEB_DIR'], 0o711)
    geb('create', 'shown', '--mode', '0644', '--policy', 'block')
    geb('create', 'hidden', '--policy', 'block')
    for bus in ('shown', 'hidden'):
        geb('pub', bus, 't', 'news')
    expect(0, 'news\n', 'tap', 'shown', '--oldest', '--count', '1', user=nobody)
    expect(0, '"pending": 1', 'info', 'shown', '--json', user=nobody)
    for args in (['tap', 'hidden'], ['pub', 'shown', 't', 'x'], ['consume', 'shown'],
                 ['rm', 'shown'], ['rm', '--force', 'shown']):
        expect(1, b'ermission', *args, user=nobody)
    check(expect(0, '', 'consume', 'shown', '--count', '1').stdout == b'news\n', 'it is untouched')


run(reads_all, as_json, topics, missed, beside_a_killed_consumer, takes_part_in_nothing, ends,
    other_user)
