#!/usr/bin/env python3
"""Rewrites the tables of a document from the rows of geb-bench.

usage: bench/report.py ROWS.json DOCUMENT.md

ROWS.json is one array of rows as geb-bench --json writes them. Between the lines
`<!-- bench:begin -->` and `<!-- bench:end -->` of the document each bench has a section,
`### NAME`: those of the benches in ROWS.json are replaced, others stay. Everything outside stays as
it is.
"""
import json
import os
import re
import sys

BEGIN = '<!-- bench:begin -->'
END = '<!-- bench:end -->'
ORDER = ('floor', 'publish', 'throughput', 'roundtrip', 'takeover', 'watching')
HEAD = ('| subject | mode | bytes | ns an event | p50 | p99 | p99.9 | floor | its ns | ratio '
        '| middle half | calm rounds |')


def machine():
    model = 'unknown processor'
    with open('/proc/cpuinfo', encoding='utf-8') as lines:
        for line in lines:
            if line.startswith('model name'):
                model = line.split(':', 1)[1].strip()
                break
    release = '.'.join(os.uname().release.split('.')[:2])
    return f'{model}, {os.cpu_count()} CPUs, Linux {release}'


def number(value):
    """Four digits, as a person writes them."""
    if value >= 1000:
        return f'{value:,.0f}'
    return f'{value:.4g}' if value >= 1 else f'{value:.3f}'


def line_of(row):
    cells = [row['subject'], row['mode'], str(row['bytes'])]
    cells += [number(row[key]) for key in ('ns_per_event', 'p50_ns', 'p99_ns', 'p999_ns')]
    if row['subject'] == 'floor':
        cells += ['', '', '', '']
    else:
        ratio = f'{row["ratio"]:.2f}'
        cells += [row['floor'], number(row['floor_ns']),
                  ratio + ' (too noisy)' if row.get('noisy') else f'**{ratio}**',
                  f'{row["ratio_p25"]:.2f} … {row["ratio_p75"]:.2f}']
    cells.append(f'{row["calm_rounds"]} of {row["rounds"]}')
    return '| ' + ' | '.join(cells) + ' |'


def section(name, rows):
    return '\n'.join([f'### {name}', '', f'{machine()}. `./build/bench/geb-bench {name}`', '', HEAD,
                      '|' + '---|' * (HEAD.count('|') - 1)] + [line_of(row) for row in rows]) + '\n'


def rewrite(text, rows):
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'no {BEGIN} with a {END} behind it')
    sections = {}
    for part in re.split(r'^(?=### )', inside, flags=re.M)[1:]:
        sections[part.split('\n', 1)[0][4:].strip()] = part.strip() + '\n'
    for name in dict.fromkeys(row['bench'] for row in rows):
        sections[name] = section(name, [row for row in rows if row['bench'] == name])
    names = sorted(sections, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    return before + begin + '\n\n' + '\n'.join(sections[n] for n in names) + '\n' + end + after


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.split('\n\n')[1])
    with open(sys.argv[1], encoding='utf-8') as file:
        rows = json.load(file)
    with open(sys.argv[2], encoding='utf-8') as file:
        text = file.read()
    try:
        text = rewrite(text, rows)
    except (KeyError, ValueError) as error:
        sys.exit(f'{sys.argv[2]}: {error}')
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        file.write(text)


if __name__ == '__main__':
    main()
