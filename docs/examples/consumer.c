#include <geb.h>
#include <stdio.h>
#include <string.h>

static int on_user(struct geb_context *ctx, const struct geb_event *event, void *out)
{
    if (event->len == 3 && memcmp(event->data, "bye", 3) == 0)
        geb_stop(geb_context_bus(ctx));
    return fprintf(out, "user %.*s\n", (int)event->len, (const char *)event->data);
}
int main(int argc, char **argv)
{
    struct geb_bus *bus = NULL;
    int rc = geb_create(&bus, argc > 1 ? argv[1] : "shop", NULL); /* 65,536 events, drop-oldest */
    if (rc == 0 && (rc = geb_on(bus, "user_created", on_user, stdout)) == 0)
        rc = geb_run(bus);
    fprintf(stderr, "consumer: %s\n", geb_strerror(rc));
    return geb_close(bus, 0) < 0 || rc < 0;
}
