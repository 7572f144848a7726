#include <geb.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    struct geb_producer *me = NULL; /* one handle for each thread that publishes */
    geb_topic_id topic = 0;
    const char *user = argc > 2 ? argv[2] : "12345";
    int rc = geb_join(&me, argc > 1 ? argv[1] : "shop", "signup");
    if (rc == 0 && (rc = geb_topic(me, "user_created", &topic)) == 0)
        rc = geb_publish(me, topic, user, strlen(user));
    fprintf(stderr, "producer: %s\n", geb_strerror(rc));
    return geb_leave(me) < 0 || rc < 0;
}
