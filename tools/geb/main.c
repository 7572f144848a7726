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
    {"rm", "BUS", "remove a bus that nobody uses", command_rm},
    {"create", "BUS", "make a bus", NULL},
    {"ls", "", "list the buses", NULL},
    {"info", "BUS", "show how a bus was made", NULL},
    {"doctor", "BUS", "check a bus", NULL},
    {"serve", "BUS", "keep a bus consumed", NULL},
    {"pub", "BUS TOPIC [DATA]", "publish", NULL},
    {"consume", "BUS [TOPIC...]", "take the consumer's role and print events", NULL},
    {"tap", "BUS [TOPIC...]", "watch events go by, read-only", NULL},
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
            "  geb demo                  six producers, one consumer, every event accounted for\n"
            "  geb demo --bus fair &     the same on a bus of that name, ...\n"
            "  geb-top fair              ... looked at from outside\n"
            "  geb rm fair               remove a bus that is left over\n"
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

int main(int argc, char **argv)
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
