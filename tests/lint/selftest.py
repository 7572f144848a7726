#!/usr/bin/env python3
"""Shows every check of lint.py a small tree that it must accept, and one fault a time that it must
refuse at the right place. A check without a fault here fails this test."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lint  # noqa: E402

GOOD = {
    'meson.build': "project('x')\n",
    'shmring/meson.build': "'ring.c'\n",
    'shmring/atomic.h': '/* edge R9 release: a form */ __atomic_load_n(p);\n',
    'shmring/ring.h': '#include "shmring/atomic.h"\n/* not __atomic_x, volatile: a comment */\n',
    'shmring/ring.c': '#include <stdio.h>\n#include "shmring/ring.h"\n'
                      '/* edge R1 release: the body is whole. */\n'
                      '__asm__ volatile("rdtsc");\nstatic volatile sig_atomic_t stop;\n'
                      'char *s = "volatile /* edge R9 */";\n',
    'lib/meson.build': "'bus.c'\n",
    'lib/bus.c': '#include "lib/geb.h"\n/* Reads it (edge R1 acquire: sees the body). */\n'
                 'int f(void)\n{\n    return 0;\n}\n',
    'lib/geb.h': '/* see edge R1 */\n',
    'tests/meson.build': "'test_bus', 'tools_pub.sh'\n",
    'tests/test_bus.c': 'volatile int x;\n',
    'tests/tools_pub.sh': 'true\n',
    'docs/ordering.md': '# Ordering\n## R1: body\n'
                        '[ring](../shmring/ring.c#L1) [web](https://x.y)\n',
    'build/lib/x.c': 'volatile' + 'x' * 200 + '\n',
}

HOME = '/' + 'home/someone/x'
LONG_FUNCTION = 'int g(void)\n{\n' + '    x();\n' * 69 + '}\n'

FAULTS = [  # check, file, its new text, the line that the finding names
    ('layers', 'shmring/ring.c', GOOD['shmring/ring.c'] + '#include "lib/geb.h"\n', 7),
    ('layers', 'shmring/ring.h', '#include <geb.h>\n', 1),
    ('layers', 'lib/bus.c', GOOD['lib/bus.c'] + '#include "tools/geb/x.h"\n', 7),
    ('layers', 'lib/bus.c', GOOD['lib/bus.c'] + '#include "geb.h"\n', 7),
    ('atomics', 'lib/geb.h', 'int a = memory_order_relaxed;\n', 1),
    ('atomics', 'shmring/ring.h', '\nvolatile int a;\n', 2),
    ('atomics', 'bench/publish.c', '__atomic_add_fetch(p, 1, 2);\n', 1),
    ('edges', 'lib/bus.c', '\n', 3),
    ('edges', 'shmring/ring.c', '\n', 2),
    ('edges', 'docs/ordering.md', '# Ordering\n', 2),
    ('edges', 'docs/ordering.md', '## R1\n## W2\n', 2),
    ('edges', 'lib/geb.h', '/* see edge R7 */\n', 1),
    ('sizes', 'lib/geb.h', '\n' * 501, 501),
    ('sizes', 'lib/bus.c', GOOD['lib/bus.c'] + LONG_FUNCTION, 8),
    ('columns', 'lib/geb.h', '\n/* ' + 'x' * 98 + ' */\n', 2),
    ('paths', 'docs/ordering.md', GOOD['docs/ordering.md'] + f'see {HOME}\n', 4),
    ('paths', 'tests/tools_pub.sh', f'cd "{HOME}"\n', 1),
    ('links', 'docs/ordering.md', GOOD['docs/ordering.md'] + '[gone](layout.md)\n', 4),
    ('links', 'README.md', '[ordering](/docs/ordering.md)\n', 1),
    ('listed', 'tests/test_ring.c', '\n', 1),
    ('listed', 'tests/tools_tap.sh', '\n', 1),
    ('listed', 'shmring/slab.c', '\n', 1),
]


def findings(files, check):
    with tempfile.TemporaryDirectory() as root:
        for path, text in files.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, 'w', encoding='utf-8') as f:
                f.write(text)
        return list(lint.CHECKS[check](lint.Tree(root)))


def main():
    failed = 0
    for check in lint.CHECKS:
        found = findings(GOOD, check)
        if found:
            print(f'{check}: refuses the good tree: {found}')
            failed += 1
        if not any(fault[0] == check for fault in FAULTS):
            print(f'{check}: no fault shows that it can fail')
            failed += 1
    for check, path, text, line in FAULTS:
        found = findings({**GOOD, path: text}, check)
        if not found or all(f[1] != line for f in found):
            print(f'{check}: misses line {line} of {path}: {found}')
            failed += 1
    print(f'{len(FAULTS)} faults, {failed} failures')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
