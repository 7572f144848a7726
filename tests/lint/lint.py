#!/usr/bin/env python3
"""Checks of the source tree that no compiler makes.

    tests/lint/lint.py [--root DIR] [CHECK...]

Without a name every check runs. A finding is printed as `file:line: text`; the exit status is 1 if
there was one. tests/lint/selftest.py shows each check a tree that it must refuse.
"""
import argparse
import os
import re
import sys

MAX_FILE_LINES = 500
MAX_MODEL_LINES = 800
MAX_FUNCTION_LINES = 70
MAX_COLUMNS = 100
MAX_SHOWN = 40

ATOMIC_H = os.path.join('shmring', 'atomic.h')
C_FILES = ('.c', '.h')
SCRIPTS = ('.py', '.sh', '.pml', 'tools/dev', '.ci/run', 'tests/model/run', 'meson.build')


class Tree:
    """The files of the project: everything but build directories, .git and caches."""

    def __init__(self, root):
        self.root = root
        self.paths = []
        for folder, folders, names in os.walk(root):
            at_top = os.path.samefile(folder, root)
            folders[:] = sorted(
                d for d in folders
                if d not in ('.git', '__pycache__')
                and not (at_top and (d == 'build' or d.startswith('build-'))))
            for name in sorted(names):
                if name != '.git':  # a file, in a tree of git worktree
                    self.paths.append(os.path.relpath(os.path.join(folder, name), root))

    def under(self, *folders):
        return [p for p in self.paths if p.split(os.sep)[0] in folders]

    def c_files(self, *folders):
        return [p for p in (self.under(*folders) if folders else self.paths)
                if p.endswith(C_FILES)]

    def text(self, path):
        try:
            with open(os.path.join(self.root, path), encoding='utf-8') as f:
                return f.read()
        except UnicodeDecodeError:
            return ''

    def lines(self, path):
        return enumerate(self.text(path).splitlines(), 1)


LEXEME = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def blank(text):
    return re.sub(r'[^\n]', ' ', text)


def split_c(text):
    """Returns (code, comments): both with the line numbers of `text`, the other part blanked."""
    code, comments, at = [], [], 0
    for m in LEXEME.finditer(text):
        between, lexeme = text[at:m.start()], m.group()
        is_comment = lexeme.startswith('/')
        code += [between, blank(lexeme)]
        comments += [blank(between), lexeme if is_comment else blank(lexeme)]
        at = m.end()
    code.append(text[at:])
    return ''.join(code), ''.join(comments)


def line_of(text, offset):
    return text.count('\n', 0, offset) + 1


def check_layers(tree):
    """Includes point down only (lib -> shmring), and they name the layer."""
    allowed = {'shmring': {'shmring'}, 'lib': {'shmring', 'lib'}}
    for path in tree.c_files('shmring', 'lib'):
        layer = path.split(os.sep)[0]
        for n, line in tree.lines(path):
            m = re.match(r'\s*#\s*include\s+(?:"([^"]+)"|<(geb\.h|shmring/.*)>)', line)
            if not m:
                continue
            name = m.group(1) or m.group(2)
            if name.split('/')[0] not in allowed[layer] or '/' not in name:
                yield path, n, f'{layer} includes {name}: allowed are {sorted(allowed[layer])}'


def check_atomics(tree):
    """Memory orders, atomic builtins and volatile are named in shmring/atomic.h alone."""
    word = re.compile(r'\bmemory_order_\w+|\b__atomic_\w+|\b__sync_\w+|\b_Atomic\b|\bvolatile\b'
                      r'|\batomic_thread_fence\b|\bstdatomic\b')
    fine = re.compile(r'(__asm__|\basm)\s+volatile|volatile\s+sig_atomic_t')
    for path in tree.c_files('shmring', 'lib', 'tools', 'bench'):
        if path == ATOMIC_H or path.startswith('bench/peers/'):
            continue
        code = fine.sub(lambda m: blank(m.group()), split_c(tree.text(path))[0])
        for m in word.finditer(code):
            yield path, line_of(code, m.start()), f'{m.group()} outside shmring/atomic.h'


def check_edges(tree):
    """Every ordering edge has a release end, an acquire end and a heading in docs/ordering.md.

    The ends are comments of this form:  edge R2 release: ...   edge R2 acquire: ...
    and the heading is a line of this form:  ## R2 ...
    Prose may name an edge (see edge R2) that exists.
    """
    doc = os.path.join('docs', 'ordering.md')
    ends, named = {}, []
    for path in tree.c_files('shmring', 'lib'):
        if path == ATOMIC_H:  # explains the form, and holds no end
            continue
        comments = split_c(tree.text(path))[1]
        for m in re.finditer(r'\bedge ([A-Z]{1,2}[0-9]{1,2})\b(?: (release|acquire)\b)?',
                             comments):
            n = line_of(comments, m.start())
            if not m.group(2):
                named.append((path, n, m.group(1)))
                continue
            ends.setdefault(m.group(1), {}).setdefault(m.group(2), (path, n))
    if not ends and os.path.join('shmring', 'ring.h') in tree.paths:
        yield 'shmring', 0, 'no ordering edge is labelled'
    for path, n, label in named:
        if label not in ends:
            yield path, n, f'there is no edge {label}'
    headings = {}
    if doc in tree.paths:
        for n, line in tree.lines(doc):
            m = re.match(r'#+ ([A-Z]{1,2}[0-9]{1,2})\b', line)
            if m:
                headings[m.group(1)] = n
    for label, found in sorted(ends.items()):
        where = next(iter(found.values()))
        for end in ('release', 'acquire'):
            if end not in found:
                yield *where, f'edge {label} has no {end} end'
        if label not in headings:
            yield *where, f'edge {label} has no heading in {doc}'
    for label, n in sorted(headings.items()):
        if label not in ends:
            yield doc, n, f'edge {label} is in no source of shmring or lib'


def check_sizes(tree):
    """Files stay within 500 lines (models: 800), functions (braces in column 0) within 70."""
    for path in tree.paths:
        if not path.endswith(C_FILES + SCRIPTS):
            continue
        text = tree.text(path)
        count = len(text.splitlines())
        most = MAX_MODEL_LINES if path.endswith('.pml') else MAX_FILE_LINES
        if count > most:
            yield path, count, f'{count} lines, at most {most}'
        if not path.endswith(C_FILES):
            continue
        start = 0
        for n, line in enumerate(split_c(text)[0].splitlines(), 1):
            if line.rstrip() == '{':
                start = n
            elif line.startswith('}') and start:
                if n - start + 1 > MAX_FUNCTION_LINES:
                    yield path, start, f'a function of {n - start + 1} lines, ' \
                                       f'at most {MAX_FUNCTION_LINES}'
                start = 0


def check_columns(tree):
    """Lines stay within 100 columns."""
    for path in tree.paths:
        if path.endswith(C_FILES + SCRIPTS):
            for n, line in tree.lines(path):
                if len(line) > MAX_COLUMNS:
                    yield path, n, f'{len(line)} columns, at most {MAX_COLUMNS}'


def check_paths(tree):
    """No path that exists on one machine only."""
    local = re.compile(r'(?<![\w.~$}/-])/(home|root|Users|work)/[\w.]')
    for path in tree.paths:
        for n, line in tree.lines(path):
            m = local.search(line)
            if m:
                yield path, n, f'a path of one machine: {line[m.start():m.start() + 30]}'


def check_links(tree):
    """Relative links of the documents resolve."""
    link = re.compile(r'\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)')
    for path in tree.paths:
        if not path.endswith('.md'):
            continue
        fenced = False
        for n, line in tree.lines(path):
            if line.lstrip().startswith('```'):
                fenced = not fenced
            if fenced:
                continue
            for m in link.finditer(re.sub(r'`[^`]*`', '``', line)):
                target = m.group(1).split('#')[0]
                if not target or re.match(r'[a-z]+:', target):
                    continue
                full = os.path.join(tree.root, os.path.dirname(path), target)
                if target.startswith('/') or not os.path.exists(full):
                    yield path, n, f'the link to {m.group(1)} leads nowhere'


def check_listed(tree):
    """A source that no meson.build names is neither compiled nor run."""
    for path in tree.under('shmring', 'lib', 'tools', 'tests', 'bench'):
        top, _, rest = path.partition(os.sep)
        is_test = top == 'tests' and re.match(r'tools_\w+\.(sh|py)$', rest)
        if rest.startswith(('lint', 'model', 'numa')) or not (path.endswith('.c') or is_test):
            continue
        meson = os.path.join(top, 'meson.build')
        listed = tree.text(meson) if meson in tree.paths else ''
        quoted = (rest, os.path.basename(rest), os.path.splitext(os.path.basename(rest))[0])
        if not any(f"'{name}'" in listed for name in quoted):
            yield path, 1, f'{meson} does not name it'


CHECKS = {name[6:]: f for name, f in list(globals().items()) if name.startswith('check_')}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description='Checks of the source tree.')
    parser.add_argument('--root', default=os.path.dirname(os.path.dirname(here)))
    parser.add_argument('checks', nargs='*', metavar='CHECK', help=', '.join(CHECKS))
    args = parser.parse_args()
    unknown = [c for c in args.checks if c not in CHECKS]
    if unknown:
        parser.error(f'no such check: {", ".join(unknown)}')
    tree = Tree(args.root)
    failed = False
    for name in args.checks or CHECKS:
        found = list(CHECKS[name](tree))
        failed = failed or bool(found)
        for path, n, text in found[:MAX_SHOWN]:
            print(f'{path}:{n}: {text} [{name}]')
        if len(found) > MAX_SHOWN:
            print(f'... and {len(found) - MAX_SHOWN} more [{name}]')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
