/* geb-bench floor: what do the floors themselves cost here and now? */
#include "bench/floor.h"

#include <string.h>

unsigned bench_floor_add(struct bench_plan *plan, const struct bench_options *opt, const char *mode,
                         const struct bench_ops *ops, uint64_t count)
{
    struct bench_subject floor = {
        .name = "floor", .mode = mode, .ops = ops, .count = count, .bytes = 64, .producers = 1};
    return (unsigned)bench_plan_add(plan, opt, floor);
}

int bench_floor(const struct bench_options *opt)
{
    static const struct {
        const char *mode;
        const struct bench_ops *ops;
        uint64_t count;
        uint32_t bytes;
        bool latency;
    } floors[] = {
        {"atomics", &bench_floor_atomics, 65536, 8, false},
        {"stream", &bench_floor_stream, 65536, 64, false},
        {"line", &bench_floor_line, 2000, 64, true},
        {"line-full", &bench_floor_line_full, 2000, 64, true},
        {"line-pair", &bench_floor_line_pair, 2000, 64, true},
        {"memcpy", &bench_floor_memcpy, 100, 65536, false},
        {"futex", &bench_floor_futex, 50, 4, true},
        {"gap", &bench_floor_gap, 1, 0, false},
    };
    static struct bench_plan plan = {.name = "floor",
                                     .question = "what do the bare machine's movements cost now?",
                                     .unit = "one movement (line*: a round trip; gap: the longest "
                                             "pause of each round)",
                                     .rounds = 200};
    for (unsigned i = 0; i < sizeof(floors) / sizeof(floors[0]); i++) {
        if (opt->mode != NULL && strcmp(opt->mode, floors[i].mode) != 0) {
            continue;
        }
        unsigned idx = bench_floor_add(&plan, opt, floors[i].mode, floors[i].ops, floors[i].count);
        struct bench_subject *s = &plan.subject[idx];
        bool is_copy = floors[i].ops == &bench_floor_memcpy;
        s->bytes = is_copy && opt->bytes != 0 ? opt->bytes : floors[i].bytes;
        s->latency = floors[i].latency;
        if (floors[i].ops == &bench_floor_gap) {
            s->count = 1;
            s->keeps_all = true;
        }
    }
    return bench_run(&plan, opt);
}
