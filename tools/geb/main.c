/* geb SUBCOMMAND …: the table of subcommands, and nothing else. */
#include "tools/geb/commands.h"

#include "lib/geb.h"
#include "tools/common.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    const char *usage;
    const char *what;
    int (*run)(int argc, char **argv); /* NULL: not built yet */
};

static const struct command commands[] = {
    {"demo", "[--seconds N] [--json] [--bus NAME]", "the bus at work on this machine",
     command_demo},
    {"create", "BUS", "make a bus", command_create},
    {"ls", "", "list the buses", command_ls},
    {"info", "BUS", "how a bus was made, and who takes part", command_info},
    {"rm", "[--force] BUS", "remove a bus", command_rm},
    {"pub", "BUS TOPIC [DATA] [--lines]", "publish", command_pub},
    {"consume", "BUS [TOPIC...]", "take the consumer's role and print events", command_consume},
    {"doctor", "[BUS]", "what the dead left, and what the machine lacks", command_doctor},
    {"serve", "BUS", "keep a bus consumed", NULL},
    {"tap", "BUS [TOPIC...]", "watch events go by, read-only", command_tap},
    {"record", "BUS -o FILE", "write events to a file", NULL},
    {"replay", "BUS FILE", "publish a recording", NULL},
    {"dlq", "BUS ls|replay|drop", "dead letters", NULL},
    {"call", "BUS TOPIC [DATA]", "publish and wait for the reply", NULL},
};
#define COMMAND_CNT (sizeof commands / sizeof commands[0])

static void help_print(FILE *to)
{
    fprintf(to,
            "Examples:\n"
            "  geb consume shop                     print what comes; creates the bus\n"
            "  geb pub shop user_created 12345      publish, from another terminal\n"
            "  geb create logs --policy block       a full bus makes its producers wait\n"
            "  geb pub logs line --lines < app.log  each line an event\n"
            "  geb-top shop                         look on\n"
            "  geb rm shop                          remove it\n"
            "  geb demo                             all of it at work, every event accounted for\n"
            "\nUsage: geb SUBCOMMAND ...   (geb SUBCOMMAND --help says more)\n");
    for (int built = 1; built >= 0; built--) {
        fprintf(to, built ? "\n" : "\nNot built yet:\n");
        for (size_t i = 0; i < COMMAND_CNT; i++) {
            if ((commands[i].run != NULL) == built)
                fprintf(to, "  %-8s %-36s %s\n", commands[i].name, commands[i].usage,
                        commands[i].what);
        }
    }
    fputs("\nA BUS is a name (in GEB_DIR, or /dev/shm/geb-UID) or a path with a slash; GEB_BUS is\n"
          "its default. Exit codes: 0 ok, 1 failure, 2 usage, 3 no such bus, 4 other layout\n"
          "version, 5 timeout, 6 events were missed.\n",
          to);
}

static int command_run(int argc, char **argv)
{
    if (argc < 2) {
        help_print(stderr);
        return TOOL_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        help_print(stdout);
        return TOOL_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("geb %s\n", geb_version());
        return TOOL_OK;
    }
    for (size_t i = 0; i < COMMAND_CNT; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        if (commands[i].run == NULL)
            return tool_not_built("geb", commands[i].name);
        char name[32]; /* getopt_long begins its messages with it */
        snprintf(name, sizeof name, "geb %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "geb: there is no subcommand \"%s\"\n  those that there are:  geb --help\n",
            argv[1]);
    return TOOL_USAGE;
}

int main(int argc, char **argv)
{
    tool_begin();
    return tool_end("geb", command_run(argc, argv));
}
