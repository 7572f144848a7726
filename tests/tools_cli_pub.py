#!/usr/bin/env python3
"""Goal: geb pub publishes exactly the bytes it is given, waits as told, and says where it stopped.

Method: publish into buses without a consumer, then consume them as JSON and compare; full buses of
each policy; input that is too long, closed, binary or endless.
"""
import base64
import json
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from cli_support import (check, consumer_is_there, end, expect, geb, path, run,  # noqa: E402
                         start, stop, terminal_text, top, wait_for, with_terminal)


def taken(bus, *topics):
    """The events that wait, and their data as bytes."""
    out = geb('consume', bus, *topics, '--json', '--timeout', '0s').stdout
    events = [json.loads(line) for line in out.splitlines()]
    for event in events:
        event['bytes'] = (event['data'].encode() if 'data' in event
                          else base64.b64decode(event['data_base64']))
    return events


def arguments():
    """DATA, key, id, count and topics of odd names arrive as they were given"""
    geb('create', 'args', '--policy', 'block')
    odd = [b'plain', b'', b' ', b'--', b'$HOME `id` "\'\\', b'a\nb', 'žluťoučký ☃ 𝄞'.encode(),
           b'\xff\xfe', b'\x01\x7f', b'%s%n', b'*']
    for data in odd:
        expect(0, '', 'pub', 'args', '--', 'odd', data)
    expect(0, '', 'pub', 'args', 'empty')
    check([e['bytes'] for e in taken('args')] == odd + [b''], 'odd bytes as DATA')
    topics = ['a b', '--count', '"q"', "it's", '$(x)', 'ťopic', '*', 'a/b', '.', 'x' * 47]
    for topic in topics:
        expect(0, '', 'pub', 'args', '--', topic, 'x')
    check([e['topic'] for e in taken('args')] == topics, 'odd names of topics')
    run_json = geb('pub', 'args', b'\xff\xfe', 'x')
    if run_json.returncode == 0:
        check(taken('args')[0]['topic'] == '??', 'a name that is no UTF-8 is shown as ??')
    geb('create', 'few', '--topics', '1')
    expect(0, '', 'pub', 'few', 'one', 'x')
    expect(1, b'geb info few', 'pub', 'few', 'two', 'x')
    expect(1, b'topic', 'pub', 'args', '', 'x')
    expect(1, b'topic', 'pub', 'args', 'x' * 48, 'x')
    expect(0, '', 'pub', 'args', 't', 'x', '--key', str(2**64 - 1), '--id', '41', '--count', '3',
           '--name', 'who')
    seen = taken('args')
    check([(e['key'], e['id']) for e in seen] == [(2**64 - 1, i) for i in (41, 42, 43)],
          'key, and ids that count up')
    check([e['number'] for e in seen] == list(range(seen[0]['number'], seen[0]['number'] + 3)),
          'numbers count up')
    expect(0, '', 'pub', 'args', 't', '-', stdin=b'a\0b\nc')
    check(taken('args')[0]['bytes'] == b'a\0b\nc', '-: all of standard input, NUL and newline')


def which_bus():
    """BUS, GEB_BUS and --bus"""
    geb('create', 'one', '--policy', 'block')
    geb('create', 'two', '--policy', 'block')
    preset = {'GEB_BUS': 'one'}
    geb('pub', 't', 'left out', env=preset)
    geb('pub', 't', env=preset)
    geb('pub', 'two', 't', 'explicit', env=preset)
    geb('pub', '--bus', 'two', 't', 'option', env=preset)
    geb('pub', 't', '--lines', env=preset, stdin=b'line 1\n')
    geb('pub', 'two', 't', '--lines', env=preset, stdin=b'line 2\n')
    geb('pub', path('two'), 't', 'by path')
    check([e['bytes'] for e in taken('one')] == [b'left out', b'', b'line 1'], 'GEB_BUS')
    check([e['bytes'] for e in taken('two')] == [b'explicit', b'option', b'line 2', b'by path'],
          'BUS, --bus and a path')
    check(geb('consume', 't', '--timeout', '0s', env=preset).returncode == 5, 'consume: a TOPIC')


def wrong_use():
    """exit 2 with what is wrong; exit 3 without a bus"""
    for args in ([], ['b'], ['b', 't', 'd', 'more'], ['b', 't', 'd', '--lines'],
                 ['b', 't', '--split'], ['b', 't', '--key', '0'], ['b', 't', '--key', 'x'],
                 ['b', 't', '--id', '-1'], ['b', 't', '--count', '0'], ['b', 't', '--rate', '10'],
                 ['b', 't', '--rate', '0/s'], ['b', 't', '--rate', '-1/s'],
                 ['b', 't', '--rate', 'nan/s'], ['b', 't', '--rate', '1e3/s'],
                 ['b', 't', '--key', '18446744073709551616'], ['b', 't', '-1'],
                 ['b', 't', '--count', '-1'], ['b', 't', '--timeout', '-1s'],
                 ['b', 't', '--timeout', '99999999999h'], ['b', 't', '--timeout', '5'],
                 ['b', 't', '--timeout', 'x'], ['b', 't', '--args', '{}'],
                 ['b', 't', '--after', '1s'], ['b', 't', '--after'], ['b', 't', '--nothing']):
        expect(2, b'', 'pub', *args)
    expect(2, b'not built yet', 'pub', 'b', 't', '--after', '1s')
    expect(2, b'not built yet', 'pub', 'b', 't', '--args', '{}')
    expect(2, b'unit', 'pub', 'b', 't', '--timeout', '5')
    expect(2, b'GEB_BUS', 'pub')
    expect(2, b'name a TOPIC', 'pub', 'b')
    expect(2, b'quotes', 'pub', 'b', 't', 'd', 'more')
    expect(3, b'geb create nowhere', 'pub', 'nowhere', 't', 'x')
    expect(3, b"geb create '/no where/x'", 'pub', '/no where/x', 't', 'x')


def lines():
    """each line an event: empty ones, NUL bytes, no newline at the end"""
    geb('create', 'lines', '--policy', 'block', '--max-event', '100B')
    for text in (b'', b'\n', b'a\n', b'a', b'\n\na\n\n', b'\0\n\0\0\nx\0y', b'\xff\r\n\xfe\n',
                 b'y' * 100 + b'\n' + b'z' * 100):
        geb('pub', 'lines', 't', '--lines', stdin=text)
        want = text.split(b'\n')
        want = want[:-1] if want[-1] == b'' else want
        check([e['bytes'] for e in taken('lines')] == want, b'lines of ' + text[:20])
    geb('pub', 'lines', 't', '--lines', '--count', '2', stdin=b'1\n2\n3\n')
    check([e['bytes'] for e in taken('lines')] == [b'1', b'2'], '--count 2')
    for stdin in (None, '/proc/self/mem'):
        fd = os.open(stdin or os.environ['GEB_DIR'], os.O_RDONLY)
        expect(1, b'standard input', 'pub', 'lines', 't', '--lines', stdin_file=fd)
        expect(1, b'standard input', 'pub', 'lines', 't', '-', stdin_file=fd)
        os.close(fd)


def long_lines():
    """a line that is too long: an error with its number, or cut"""
    geb('create', 'lines', '--policy', 'block', '--max-event', '100B')
    text = b'ok\nfine\n' + b'q' * 251 + b'\nlater\n'
    said = expect(1, b'line 3', 'pub', 'lines', 't', '--lines', stdin=text).stderr
    check(b'--split' in said and b'--max-event' in said and b'2 events' in said, said)
    check([e['bytes'] for e in taken('lines')] == [b'ok', b'fine'], 'what was before it is there')
    expect(1, b'line 1', 'pub', 'lines', 't', '--lines', stdin=b'q' * 1000000)
    check(taken('lines') == [], 'a line of 1 MB without end')
    for size in (100, 101, 199, 200, 201, 1000, 700001):
        line = bytes(65 + i % 26 for i in range(size))
        for close in (b'\n', b''):
            expect(0, '', 'pub', 'lines', 't', '--lines', '--split',
                   stdin=b'a\n' + line + close + (b'b' if close else b''))
            want = [b'a'] + [line[i:i + 100] for i in range(0, size, 100)]
            check([e['bytes'] for e in taken('lines')] == want + ([b'b'] if close else []),
                  f'--split: {size} bytes, newline {bool(close)}')
    for text in ('€' * 90, 'é' * 120, '𝄞' * 60, 'a' + '𝄞' * 60):
        expect(0, '', 'pub', 'lines', 't', '--lines', '--split', stdin=text.encode() + b'\n')
        pieces = [e['bytes'] for e in taken('lines')]
        check(b''.join(pieces) == text.encode() and
              all(97 <= len(p) <= 100 and p.decode() for p in pieces[:-1]),
              f'--split: whole characters of {text[:2]}')
    broken = b'\x80' * 250
    expect(0, '', 'pub', 'lines', 't', '--lines', '--split', stdin=broken)
    check([len(e['bytes']) for e in taken('lines')] == [100, 100, 50], '--split: what is no UTF-8')
    expect(1, b'max_event', 'pub', 'lines', 't', 'q' * 101)
    expect(1, b'max_event', 'pub', 'lines', 't', '-', stdin=b'q' * 101)


def full():
    """a full bus: each policy, --timeout, and a consumer that comes"""
    for policy in ('block', 'error', 'drop-oldest'):
        geb('create', policy, '--policy', policy, '--capacity', '4')
    expect(0, '', 'pub', 'drop-oldest', 't', '--lines', stdin=b'1\n2\n3\n4\n5\n6\n')
    check([e['bytes'] for e in taken('drop-oldest')] == [b'3', b'4', b'5', b'6'], 'the newest win')
    said = expect(1, b'line 5', 'pub', 'error', 't', '--lines', stdin=b'1\n2\n3\n4\n5\n').stderr
    check(b'full' in said and b'4 events were published' in said, said)
    begun = time.monotonic()
    said = expect(5, b'line 5', 'pub', 'block', 't', '--lines', '--timeout', '300ms',
                  stdin=b'1\n2\n3\n4\n5\n').stderr
    check(time.monotonic() - begun >= 0.3 and b'4 events were published' in said, said)
    expect(5, b'full', 'pub', 'block', 't', 'x', '--timeout', '1500ms')
    expect(5, b'full', 'pub', 'block', 't', 'x', '--timeout', '0s')
    expect(1, b'geb consume block', 'pub', 'block', 't', 'x')
    geb('create', 'fresh', '--policy', 'block', '--capacity', '4')
    geb('pub', 'fresh', 't', '--lines', stdin=b'1\n2\n3\n4\n')
    waiting = start('pub', 'fresh', 't', 'at last', '--timeout', '60s')
    wait_for('it waits', lambda: times_full('fresh') > 0 or waiting.poll() is not None)
    time.sleep(0.1)  # many looks for a consumer later:
    check(times_full('fresh') == 1, f'it met a full bus once: {times_full("fresh")}')
    out = expect(0, 'at last', 'consume', 'fresh', '--count', '5').stdout
    check(out == b'1\n2\n3\n4\nat last\n', 'it was published when there was room')
    end(waiting, 'the publisher', 0)


def times_full(bus):
    """How often the first producer met a full bus; 0 if there is none."""
    rows = json.loads(top(bus, '--once', '--json').stdout)['producers']
    return rows[0]['full'] if rows else 0


def rate():
    """--rate holds from the first event to the last"""
    geb('create', 'rate')
    begun = time.monotonic()
    geb('pub', 'rate', 't', 'x', '--rate', '100/s', '--count', '31')
    took = time.monotonic() - begun
    check(took >= 0.3, f'31 events at 100/s took {took:.2f} s')
    check(len(taken('rate')) == 31, 'all of them')
    begun = time.monotonic()
    geb('pub', 'rate', 't', '--lines', '--rate', '50/s', stdin=b'x\n' * 11)
    check(time.monotonic() - begun >= 0.2, '11 lines at 50/s')


def progress():
    """on a terminal long work says how far it is, on others and in files it says nothing"""
    geb('create', 'long', '--policy', 'block')
    geb('pub', 'long', 't', 'first')
    quiet = {'stdout': subprocess.DEVNULL}
    slow = ['pub', 'long', 't', 'x', '--rate', '4/s', '--count', '4']  # at least 750 ms
    shown = [with_terminal('tap', 'long', '--oldest', '--count', '17'),
             with_terminal('consume', 'long', '--count', '17')]
    for process, _ in shown:  # their time has begun before that of the others
        check(process.stdout.readline() == b'first\n', 'it prints')
    shown.append(with_terminal(*slow, **quiet))
    silent = [with_terminal(*slow, term=term, **quiet) for term in ('dumb', None)]
    in_file = start(*slow)
    for process, terminal in shown:
        text, code = terminal_text(process, terminal)
        check(code == 0 and b' events, ' in text and b' events/s' in text and
              text.endswith(b'\r\n'), b'progress: ' + text)
    for process, terminal in silent:
        check(terminal_text(process, terminal) == (b'', 0), 'none where TERM says nothing')
    check(in_file.communicate(timeout=60) == (b'', b''), 'none without a terminal')


def interrupts():
    """Ctrl-C ends it, wherever it waits, and it says what was published"""
    geb('create', 'stop', '--policy', 'block', '--capacity', '4')
    reading = start('pub', 'stop', 't', '--lines')
    reading.stdin.write(b'1\n2\n')
    reading.stdin.flush()
    wait_for('two events', lambda: b'2 wait' in geb('info', 'stop').stdout)
    reading.send_signal(signal.SIGINT)
    check(reading.wait(60) == 1 and b'2 events' in reading.stderr.read(), 'while it reads')
    geb('pub', 'stop', 't', 'x', '--count', '2')
    consumer = start('consume', 'stop', stdout=os.open('/dev/null', os.O_WRONLY))
    consumer_is_there('stop')
    stop(consumer)
    full_bus = start('pub', 'stop', 't', 'x', '--count', '1000')
    wait_for('it waits', lambda: b'blocked' in geb('info', 'stop').stdout)
    check(times_full('stop') == 1, f'it met a full bus once: {times_full("stop")}')
    full_bus.send_signal(signal.SIGTERM)
    end(full_bus, 'while the bus is full', 1, b'interrupted')
    consumer.kill()
    consumer.wait()
    geb('create', 'rare', '--policy', 'block')
    slow = start('pub', 'rare', 't', 'x', '--rate', '0.001/s', '--count', '2')
    wait_for('the first event', lambda: b' 1 wait' in geb('info', 'rare').stdout)
    slow.send_signal(signal.SIGINT)
    said = end(slow, 'while it waits for its turn', 1, b'1 events were published')
    check(said == b'', 'and prints nothing')


run(arguments, which_bus, wrong_use, lines, long_lines, full, rate, progress, interrupts)
