"""What the end-to-end tests of the geb command share. A test runs in a directory of buses of its
own, which is gone afterwards, with every process that it started."""
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BUILD = os.environ['GEB_BUILD']
GEB = os.path.join(BUILD, 'tools', 'geb')
TOP = os.path.join(BUILD, 'tools', 'geb-top')
LONG = os.environ.get('GEB_TEST_DEPTH') == 'long'
failures = []
started = []


def guard(*directories):
    """From here on nothing outlives this test, however it ends: a shell waits until our end of its
    pipe is closed, then kills our process group and removes the directories. Nothing but our end
    closes it: it is a bare number, which the interpreter does not tidy away before."""
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    reader, _ = os.pipe()
    subprocess.Popen(['sh', '-c', 'read -r _; kill -9 -- "-$0" 2>/dev/null; rm -rf -- "$@"',
                      str(os.getpid()), *directories], stdin=reader, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(reader)


def buses_make():
    """GEB_DIR is a fresh directory from here on, in shared memory if there is some."""
    shm = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    os.environ['GEB_DIR'] = tempfile.mkdtemp(prefix='geb-test-', dir=shm)
    os.environ.pop('GEB_BUS', None)
    guard(os.environ['GEB_DIR'])


def check(ok, what):
    if isinstance(what, bytes):
        what = ascii(what)
    print(f'{"OK" if ok else "FAIL":5} {what}', flush=True)
    if not ok:
        failures.append(what)


def geb(*args, stdin=b'', env=None, **more):
    """Runs geb to its end; stdout and stderr are bytes."""
    if 'stdin_file' in more:
        more['stdin'] = more.pop('stdin_file')
    else:
        more['input'] = stdin
    more.setdefault('stdout', subprocess.PIPE)
    return subprocess.run([GEB, *args], stderr=subprocess.PIPE, check=False, timeout=600,
                          env={**os.environ, **(env or {})}, **more)


def top(*args):
    """Runs geb-top to its end."""
    return subprocess.run([TOP, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          timeout=600)


def start(*args, **more):
    """Starts geb; it is killed at the end of the test if it is still there."""
    for stream in ('stdin', 'stdout', 'stderr'):
        more.setdefault(stream, subprocess.PIPE)
    process = subprocess.Popen([GEB, *args], **more)
    started.append(process)
    return process


def stop(process):
    """Stops a process, and waits until it is."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def end(process, what, code, says=b''):
    """Waits for a process, and looks at its exit code and messages. Returns its output."""
    out, err = process.communicate(timeout=120)
    check(process.returncode == code and says in err,
          f'{what}: exit {process.returncode}, expected {code} and {says}: {err[-300:]}')
    return out


def expect(code, says, *args, **more):
    """Runs geb: its exit code, and a word of its messages (of its output when the code is 0 and
    the word is text). Returns the result."""
    run = geb(*args, **more)
    text = run.stderr if isinstance(says, bytes) else (run.stdout or b'').decode(errors='replace')
    shown = ' '.join(ascii(a)[1:-1] for a in args)
    check(run.returncode == code and says in text,
          f'geb {shown}: exit {run.returncode}, expected {code} and {says!r}'
          + ('' if run.returncode == code and says in text
             else f'; it says {(run.stdout or b"")[-300:]} {run.stderr[-500:]}'))
    return run


def with_terminal(*args, term='vt100', **more):
    """Starts geb with a terminal for its messages. Returns the process and a file to read them."""
    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != 'TERM'}
    env.update({'TERM': term} if term else {})
    process = start(*args, stderr=slave, env=env, **more)
    os.close(slave)
    return process, master


def terminal_text(process, master):
    """What the terminal got until the process ended, and its exit code."""
    text = b''
    try:
        while part := os.read(master, 65536):
            text += part
    except OSError:  # the other side is closed
        pass
    os.close(master)
    return text, process.wait(timeout=60)


def wait_for(what, test, seconds=60):
    """Waits for a state; what it waits for is tested, never assumed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = test()
        if result:
            return result
        time.sleep(0.005)
    check(False, f'{what} within {seconds} s')
    return None


def consumer_is_there(bus):
    def look():
        rows = geb('info', bus, '--json').stdout
        return b'"role": "consumer"' in rows
    return wait_for(f'a consumer of {bus}', look)


def path(name):
    return os.path.join(os.environ['GEB_DIR'], name)


def run(*parts):
    """Runs the parts of a test and ends the process."""
    buses_make()
    try:
        for part in parts:
            print(f'--    {part.__name__}: {part.__doc__}', flush=True)
            part()
            for name in os.listdir(os.environ['GEB_DIR']):
                check(geb('rm', name).returncode == 0, f'geb rm {name} at the end')
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(os.environ['GEB_DIR'])
    sys.exit(1 if failures else 0)
