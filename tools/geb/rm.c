/* geb rm BUS */
#include "tools/geb/commands.h"

#include "lib/geb.h"
#include "tools/common.h"

#include <getopt.h>
#include <stdio.h>

int command_rm(int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, {"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
    static const char usage[] = "Example:\n  geb rm shop\n\nUsage: geb rm BUS\n"
                                "Removes a bus. Fails while anybody takes part in it.\n";
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'f')
            return tool_not_built("geb", "rm --force");
        fputs(usage, c == 'h' ? stdout : stderr);
        return c == 'h' ? TOOL_OK : TOOL_USAGE;
    }
    const char *bus = tool_bus(optind < argc ? argv[optind] : NULL);
    if (bus == NULL || argc - optind > 1) {
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
    int rc = geb_remove(bus);
    return rc < 0 ? tool_explain("geb rm", "cannot remove", bus, rc) : TOOL_OK;
}
