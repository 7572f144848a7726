/* geb doctor: one bus, and what dead processes left in it. */
#include "tools/geb/doctor.h"

#include "tools/common.h"
#include "tools/geb/look.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* A bus before and, if there was a repair, after it. */
struct patient {
    struct look before, after;
    struct geb_repair found, repair;
    int rc; /* of the repair */
    char why[256];
    const char *path;
};

static int repair_look(const char *path, struct geb_repair *found)
{
    struct geb_watch *watch;
    *found = (struct geb_repair)GEB_REPAIR_INIT;
    int rc = geb_watch(&watch, path);
    if (rc < 0)
        return rc;
    rc = geb_watch_repair(watch, found);
    geb_unwatch(watch);
    return rc;
}

/* ---- findings -------------------------------------------------------------------------------- */

static const struct geb_participant *same_owner(const struct look *look,
                                                const struct geb_participant *owner)
{
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        if (row->slot == owner->slot && row->pid == owner->pid && look_is_dead(row))
            return row;
    }
    return NULL;
}

static void dead_find(struct doctor *doctor, json_t *findings, const struct patient *p)
{
    char what[DOCTOR_TEXT_BYTES], text[DOCTOR_TEXT_BYTES];
    for (uint32_t i = 0; i < p->before.row_cnt; i++) {
        const struct geb_participant *row = &p->before.rows[i];
        if (!look_is_dead(row))
            continue;
        const char *role = row->slot == 0 ? "consumer" : "producer", *why = "";
        const char *command = "geb doctor --fix";
        bool is_back = doctor->fix && same_owner(&p->after, row) == NULL;
        if (row->slot == 0) {
            /* What it had in hand may have to run again: that is for a consumer to do. */
            command = "geb consume";
        } else if (doctor->fix && p->rc == 0 && p->repair.strangers > 0) {
            command = "lsof";
            why = ", which another process locks: end that";
        } else if (doctor->fix && p->rc == 0) {
            command = "geb info";
            why = ", whose last event is in the consumer's hand";
        }
        doctor_text(what, "dead %s: process %" PRIu32 " (%s), slot %" PRIu32 "%s", role, row->pid,
                    row->name, row->slot, is_back ? "" : why);
        doctor_find(doctor, findings, what, is_back ? "its slot is free" : NULL,
                    doctor_command(text, command, p->path));
    }
}

/* What came back, and what did not: then why, and a command for those after a repair. */
static void count_find(struct doctor *doctor, json_t *findings, const struct patient *p,
                       const char *name, uint32_t back, uint32_t left, const char *why,
                       const char *command)
{
    char what[DOCTOR_TEXT_BYTES], text[DOCTOR_TEXT_BYTES];
    bool is_repaired = doctor->fix && p->rc == 0;
    if (back > 0)
        doctor_find(doctor, findings, doctor_text(what, "%s: %" PRIu32, name, back), "taken back",
                    NULL);
    if (left == 0)
        return;
    doctor_text(what, "%s: %" PRIu32 "%s", name, left, is_repaired ? why : "");
    doctor_find(doctor, findings, what, NULL,
                doctor_command(text, is_repaired ? command : "geb doctor --fix", p->path));
}

static void memory_find(struct doctor *doctor, json_t *findings, const struct patient *p)
{
    const struct geb_repair *now = doctor->fix && p->rc == 0 ? &p->repair : &p->found;
    count_find(doctor, findings, p, "quarantined cells", now->cells, now->cells_left,
               ", which a stopped producer may write to: end or continue it", "geb info");
    /* A running consumer returns chunks as it takes the events before them. */
    count_find(doctor, findings, p, "chunks of memory of dead producers", now->chunks,
               now->consumer_lives ? 0 : now->chunks_left, ", once the events before are taken",
               "geb consume");
}

static void others_find(struct doctor *doctor, json_t *findings, const struct patient *p)
{
    char what[DOCTOR_TEXT_BYTES], text[DOCTOR_TEXT_BYTES];
    const struct look *look = &p->before;
    if (p->found.strangers > 0)
        doctor_find(doctor, findings,
                    doctor_text(what, "locks of a process that takes no part in it: %" PRIu32,
                                p->found.strangers),
                    NULL, doctor_command(text, "lsof", p->path));
    if (look->metrics.bad_bytes > 0)
        doctor_find(doctor, findings,
                    doctor_text(what,
                                "bad bytes: %" PRIu64 ", of a producer damaged or hostile: end it, "
                                "then make the bus anew",
                                look->metrics.bad_bytes),
                    NULL, doctor_command(text, "geb rm", p->path));
    if (doctor->fix && p->rc < 0) {
        doctor->failed = true;
        doctor_find(doctor, findings, doctor_text(what, "it could not be repaired: %s", p->why),
                    NULL, doctor_command(text, p->rc == -EBUSY ? "geb info" : "ls -la", p->path));
    }
}

/* ---- a bus that nobody uses ------------------------------------------------------------------ */

/* Whether it went. */
static bool unused_remove(struct doctor *doctor, json_t *findings, const struct patient *p)
{
    char text[DOCTOR_TEXT_BYTES];
    const struct look *look = &p->after;
    if (!doctor->remove_unused || p->rc < 0 || look->rc < 0 || look->row_cnt > 0)
        return false;
    int rc = geb_remove_unused(p->path);
    if (rc == 0)
        doctor_find(doctor, findings, "nobody takes part in it, and no event waits", "removed",
                    NULL);
    else if (look->metrics.pending > 0)
        doctor_find(doctor, findings, "nobody takes part in it, but events wait: read or drop them",
                    NULL, doctor_command(text, "geb rm", p->path));
    return rc == 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static json_t *bus_json(const struct look *look, json_t *findings)
{
    json_t *bus = json_object(), *dead = json_array();
    for (uint32_t i = 0; i < look->row_cnt; i++) {
        const struct geb_participant *row = &look->rows[i];
        if (!look_is_dead(row))
            continue;
        json_t *owner = json_object();
        json_object_set_new(owner, "role", json_string(row->slot == 0 ? "consumer" : "producer"));
        json_object_set_new(owner, "slot", look_number(row->slot));
        json_object_set_new(owner, "pid", look_number(row->pid));
        json_object_set_new(owner, "name", look_text(row->name));
        json_array_append_new(dead, owner);
    }
    json_object_set_new(bus, "name", look_text(look->name));
    json_object_set_new(bus, "path", look_text(look->info.path));
    json_object_set_new(bus, "bytes", look_number(look->info.bytes));
    json_object_set_new(bus, "pending", look_number(look->metrics.pending));
    json_object_set_new(bus, "dead", dead);
    json_object_set_new(bus, "quarantined", look_number(look->metrics.quarantined));
    json_object_set_new(bus, "bad_bytes", look_number(look->metrics.bad_bytes));
    json_object_set(bus, "findings", findings);
    return bus;
}

static void patient_report(struct doctor *doctor, const struct patient *p)
{
    char subject[DOCTOR_TEXT_BYTES], count[TOOL_TEXT_BYTES], bytes[TOOL_TEXT_BYTES];
    const struct look *now = doctor->fix && p->after.rc == 0 ? &p->after : &p->before;
    json_t *findings = json_array();
    dead_find(doctor, findings, p);
    memory_find(doctor, findings, p);
    others_find(doctor, findings, p);
    if (!unused_remove(doctor, findings, p))
        doctor->bus_cnt++;
    doctor_text(subject, "%s: %s, %s events wait", now->name,
                tool_bytes(bytes, (double)now->info.bytes),
                tool_count(count, now->metrics.pending));
    doctor_print(doctor, subject, findings);
    json_array_append_new(doctor->buses, bus_json(now, findings));
    json_decref(findings);
}

int doctor_bus(struct doctor *doctor, const char *bus)
{
    struct patient p = {.repair = GEB_REPAIR_INIT};
    int rc = look_take(&p.before, bus);
    p.path = p.before.info.path;
    if (rc == 0)
        rc = repair_look(p.path, &p.found);
    if (rc == 0 && doctor->fix) {
        p.rc = geb_repair(p.path, &p.repair);
        snprintf(p.why, sizeof p.why, "%s", geb_last_error());
        look_take(&p.after, p.path);
    }
    if (rc == 0)
        patient_report(doctor, &p);
    look_free(&p.before);
    look_free(&p.after);
    return rc;
}
