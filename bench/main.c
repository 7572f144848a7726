/* geb-bench: one name, one question, one table. */
#include "bench/harness.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench_entry {
    const char *name;
    int (*run)(const struct bench_options *opt); /* NULL: not built yet */
    const char *modes;
    const char *question;
};

static const struct bench_entry benches[] = {
    {"floor", bench_floor, "atomics stream line line-full line-pair memcpy futex gap",
     "what the bare machine needs"},
    {"publish", bench_publish, "shared exclusive", "one publish, with nobody else around"},
    {"throughput", bench_throughput, "shared exclusive", "one producer to one consumer, flat out"},
    {"roundtrip", bench_roundtrip, "shared exclusive", "there and back over two buses"},
    {"dispatch", NULL, "", "handlers against the bare take"},
    {"workers", NULL, "", "events on worker threads"},
    {"wake", NULL, "", "from publish until a sleeping consumer runs"},
    {"call", NULL, "", "request and reply"},
    {"large", NULL, "", "payloads in slabs, against memcpy"},
    {"overrun", NULL, "", "publishing to a full ring"},
    {"transaction", NULL, "", "all-or-none, an event"},
    {"journal", NULL, "", "recording to disk"},
    {"takeover", bench_takeover, "standby", "a killed consumer and its standby"},
    {"watching", bench_watching, "tap tap-waiting tap-dropping metrics throughput-tap",
     "what an observer costs the others"},
    {"scaling", NULL, "", "several producers"},
    {"idle", NULL, "", "what a bus without events burns"},
    {"peers", NULL, "", "the same work in other libraries"},
};

#define BENCH_CNT (sizeof(benches) / sizeof(benches[0]))

static void print_help(FILE *to)
{
    fprintf(to,
            "usage: geb-bench NAME [--count N] [--rounds N] [--bytes N] [--mode M] [--json FILE]\n"
            "                      [--cpus A,B...]\n"
            "       geb-bench --list\n\n"
            "Measures geb against what the bare hardware needs, in the same rounds.\n\n"
            "  --count N    events of each subject in a round\n"
            "  --rounds N   rounds; every subject takes its turn in each\n"
            "  --bytes N    payload of an event\n"
            "  --mode M     only this mode (--list shows them)\n"
            "  --json FILE  write the rows as one JSON array\n"
            "  --cpus A,B   pin the processes to these CPUs, in this order\n\n"
            "examples:\n"
            "  geb-bench floor                          the state of the machine, first of all\n"
            "  geb-bench publish --mode exclusive       one mode of one bench\n"
            "  geb-bench roundtrip --rounds 1000 --json rt.json\n"
            "  geb-bench throughput --cpus 2,6          between two CPUs of your choice\n\n"
            "exit status: 0 measured, 1 failed, 2 usage, or not built yet\n");
}

static void print_list(void)
{
    for (size_t i = 0; i < BENCH_CNT; i++) {
        printf("%-12s %s", benches[i].name, benches[i].question);
        if (benches[i].run == NULL) {
            printf(" (not built yet)");
        } else if (benches[i].modes[0] != '\0') {
            printf(" [%s]", benches[i].modes);
        }
        printf("\n");
    }
}

/* A whole number of 1 … max, with nothing behind it. */
static int parse_number(const char *option, const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value == 0 || value > max) {
        fprintf(stderr, "geb-bench: %s %s: must be a whole number from 1 to %llu\n", option, text,
                (unsigned long long)max);
        return -EINVAL;
    }
    *out = value;
    return 0;
}

/* 0: go on; 1: all was said; -EINVAL: usage. */
static int parse_options(int argc, char **argv, struct bench_options *opt)
{
    enum { COUNT = 256, ROUNDS, BYTES, MODE, JSON, CPUS, LIST };
    static const struct option options[] = {
        {"count", required_argument, NULL, COUNT},
        {"rounds", required_argument, NULL, ROUNDS},
        {"bytes", required_argument, NULL, BYTES},
        {"mode", required_argument, NULL, MODE},
        {"json", required_argument, NULL, JSON},
        {"cpus", required_argument, NULL, CPUS},
        {"list", no_argument, NULL, LIST},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int rc = 0;
    int c;
    uint64_t value;
    while (rc == 0 && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case COUNT:
            rc = parse_number("--count", optarg, 1000000000u, &opt->count);
            break;
        case ROUNDS:
            if ((rc = parse_number("--rounds", optarg, 1000000u, &value)) == 0) {
                opt->rounds = (unsigned)value;
            }
            break;
        case BYTES:
            if ((rc = parse_number("--bytes", optarg, 1u << 30, &value)) == 0) {
                opt->bytes = (uint32_t)value;
            }
            break;
        case MODE:
            opt->mode = optarg;
            break;
        case JSON:
            opt->json_path = optarg;
            break;
        case CPUS:
            opt->cpus = optarg;
            break;
        case LIST:
            print_list();
            return 1;
        case 'h':
            print_help(stdout);
            return 1;
        default:
            rc = -EINVAL;
        }
    }
    return rc;
}

int main(int argc, char **argv)
{
    struct bench_options opt = {0};
    int rc = parse_options(argc, argv, &opt);
    if (rc != 0) {
        return rc > 0 ? 0 : 2;
    }
    if (optind + 1 != argc) {
        print_help(stderr);
        return 2;
    }
    for (size_t i = 0; i < BENCH_CNT; i++) {
        if (strcmp(benches[i].name, argv[optind]) == 0) {
            if (benches[i].run == NULL) {
                fprintf(stderr, "geb-bench: %s: not built yet\n", benches[i].name);
                return 2;
            }
            return benches[i].run(&opt);
        }
    }
    fprintf(stderr, "geb-bench: no bench \"%s\"; `geb-bench --list` shows them\n", argv[optind]);
    return 2;
}
