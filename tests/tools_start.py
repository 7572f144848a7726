#!/usr/bin/env python3
"""Goal: docs/start.md works: whoever types it in, line by line, sees what it says.

Method: take its blocks in their order: a C block becomes the file that its first line names, a
shell block is run in one shell with the ones before it, and a text block is what the shell block
before it printed. Only `./tools/dev build` is replaced, by a look at the build that is tested.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from cli_support import guard  # noqa: E402

SOURCE, BUILD = os.environ['GEB_SOURCE'], os.environ['GEB_BUILD']
MARK = '--end-of-block--'
failed = False


def check(ok, what):
    global failed
    print(f'{"OK" if ok else "FAIL":5} {what}', flush=True)
    failed = failed or not ok


def blocks():
    with open(os.path.join(SOURCE, 'docs', 'start.md'), encoding='utf-8') as f:
        return re.findall(r'^```(\w+)\n(.*?)^```$', f.read(), re.S | re.M)


def script(work):
    """The shell blocks as one script; each line is shown in the log before it runs."""
    lines, shells, wants = ['set -eu'], [], {}
    for kind, text in blocks():
        if kind == 'c':
            name = re.match(r'/\* (\w+\.c) \*/', text).group(1)
            with open(os.path.join(work, name), 'w', encoding='utf-8') as f:
                f.write(text)
        elif kind == 'sh':
            shells.append(text)
            text = re.sub(r'^\./tools/dev build$', 'test -x build/tools/geb', text, flags=re.M)
            lines += [text, f'echo {MARK}']
        elif kind == 'text':
            wants[len(shells) - 1] = text
        else:
            check(False, f'a block of an unknown kind: {kind}')
    return '\n'.join(lines), shells, wants


def main():
    if shutil.which('cc') is None:
        print('needs cc')
        return 77
    shm = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix='geb-test-') as work, \
            tempfile.TemporaryDirectory(prefix='geb-test-', dir=shm) as buses:
        for name, to in (('build', BUILD), ('lib', os.path.join(SOURCE, 'lib'))):
            os.symlink(to, os.path.join(work, name))
        guard(work, buses)
        text, shells, wants = script(work)
        env = {k: v for k, v in os.environ.items() if k != 'GEB_BUS'}
        run = subprocess.run(['bash', '-c', text], cwd=work, env={**env, 'GEB_DIR': buses},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             timeout=100, check=False)
        check(run.returncode == 0, f'all commands: exit {run.returncode} {run.stderr[-500:]}')
        printed = run.stdout.split(MARK + '\n')
        check(len(printed) == len(shells) + 1, f'{len(printed) - 1} of {len(shells)} blocks ran')
        for i, want in wants.items():
            got = printed[i] if i < len(printed) else ''
            check(got == want, f'block {i + 1} prints {got!r}, the text has {want!r}')
        check(len(shells) >= 7 and len(wants) >= 4, 'the blocks were found')
        check(os.listdir(buses) == [], 'no bus is left')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
