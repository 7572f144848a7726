#include "tools/geb/demo_ledger.h"

#include <inttypes.h>

const char *const demo_source_name[DEMO_SOURCE_CNT] = {
    [DEMO_CPU] = "cpu",         [DEMO_MEMORY] = "memory", [DEMO_NETWORK] = "network",
    [DEMO_PROCESS] = "process", [DEMO_TICKS] = "ticks",   [DEMO_BLOCKS] = "blocks",
};

/* Relaxed is enough everywhere here: the sums that count are taken after waitpid has seen the end
 * of the writers. */
static uint64_t word(const shr_a64 *p)
{
    return shr_load_relaxed(p);
}

void demo_account_of_bus(const struct geb_metrics *metrics, struct demo_account *account)
{
#define DEMO_COPY(name) account->name = metrics->name;
    DEMO_COMPARED(DEMO_COPY)
#undef DEMO_COPY
}

static uint64_t ended_sum(const struct demo_ledger *ledger)
{
    uint64_t sum = 0;
    for (int i = 0; i < DEMO_SOURCE_CNT; i++)
        sum += word(&ledger->sent[i].ended);
    return sum;
}

uint64_t demo_ledger_committed(const struct demo_ledger *ledger, enum demo_source source,
                               uint64_t bus_accepted)
{
    uint64_t ended = word(&ledger->sent[source].ended);
    uint64_t begun = word(&ledger->sent[source].begun);
    if (word(&ledger->killed) != source || begun != ended + 1)
        return ended;
    bool was_seen = word(&ledger->seen[source].last) == begun;
    return was_seen || bus_accepted == ended_sum(ledger) + 1 ? begun : ended;
}

uint64_t demo_ledger_dropped(const struct demo_ledger *ledger, enum demo_source source,
                             uint64_t bus_accepted)
{
    const struct demo_sent *sent = &ledger->sent[source];
    const struct demo_seen *seen = &ledger->seen[source];
    uint64_t after_last = demo_ledger_committed(ledger, source, bus_accepted) - word(&seen->last);
    return word(&seen->gaps) + after_last - word(&sent->expiring) - word(&sent->unwanted);
}

void demo_ledger_sum(const struct demo_ledger *ledger, uint64_t bus_accepted,
                     struct demo_account *account)
{
    /* Nobody cancels, no dead-letter shelf is used, the consumer lives to the end and drains the
     * bus, and every process writes what it should: these columns stay zero. */
    *account = (struct demo_account){.errors = word(&ledger->handler_errors)};
    for (int i = 0; i < DEMO_SOURCE_CNT; i++) {
        enum demo_source source = (enum demo_source)i;
        account->accepted += demo_ledger_committed(ledger, source, bus_accepted);
        account->delivered += word(&ledger->seen[i].delivered);
        account->dropped += demo_ledger_dropped(ledger, source, bus_accepted);
        account->expired += word(&ledger->sent[i].expiring);
        account->unhandled += word(&ledger->sent[i].unwanted);
    }
    account->published = account->accepted;
    account->processed = account->delivered;
}

static int column_compare(const char *who, const char *name, uint64_t bus, uint64_t ledger,
                          FILE *to)
{
    if (bus == ledger)
        return 0;
    fprintf(to, "%s: %s says %" PRIu64 ", the ledgers say %" PRIu64 "\n", name, who, bus, ledger);
    return 1;
}

int demo_account_compare(const char *who, const struct demo_account *bus,
                         const struct demo_account *ledger, FILE *to)
{
    int differences = 0;
#define DEMO_COMPARE(name) differences += column_compare(who, #name, bus->name, ledger->name, to);
    DEMO_COMPARED(DEMO_COMPARE)
#undef DEMO_COMPARE
    return differences;
}

static int source_check(const struct demo_ledger *ledger, int source, FILE *to)
{
    const struct demo_sent *sent = &ledger->sent[source];
    const struct demo_seen *seen = &ledger->seen[source];
    const char *name = demo_source_name[source];
    int wrong = 0;
    if (word(&seen->disorder) != 0) {
        fprintf(to, "%s: %" PRIu64 " events came twice or out of order\n", name,
                word(&seen->disorder));
        wrong++;
    }
    if (word(&seen->damaged) != 0) {
        fprintf(to, "%s: %" PRIu64 " payloads were damaged\n", name, word(&seen->damaged));
        wrong++;
    }
    if (word(&seen->last) > word(&sent->begun)) {
        fprintf(to, "%s: event %" PRIu64 " was handled, the last one begun was %" PRIu64 "\n", name,
                word(&seen->last), word(&sent->begun));
        wrong++;
    }
    uint64_t doubt = word(&sent->begun) - word(&sent->ended);
    if (doubt > (word(&ledger->killed) == (uint64_t)source ? 1u : 0u)) {
        fprintf(to, "%s: %" PRIu64 " events begun, %" PRIu64 " ended\n", name, word(&sent->begun),
                word(&sent->ended));
        wrong++;
    }
    return wrong;
}

int demo_ledger_check(const struct demo_ledger *ledger, uint64_t bus_accepted, FILE *to)
{
    int wrong = 0;
    for (int i = 0; i < DEMO_SOURCE_CNT; i++)
        wrong += source_check(ledger, i, to);
    if (word(&ledger->uninvited) != 0) {
        fprintf(to, "%" PRIu64 " events were delivered after their deadline\n",
                word(&ledger->uninvited));
        wrong++;
    }
    struct demo_account sum;
    demo_ledger_sum(ledger, bus_accepted, &sum);
    uint64_t ends = sum.delivered + sum.dropped + sum.expired + sum.unhandled;
    if (sum.accepted != ends) {
        fprintf(to, "the ledgers do not close: %" PRIu64 " events accepted, %" PRIu64 " ended\n",
                sum.accepted, ends);
        wrong++;
    }
    return wrong;
}
