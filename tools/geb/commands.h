/* The subcommands of geb, one file each. Each parses its own arguments (argv[0] is its name) and
 * returns the exit code. */
#ifndef TOOLS_GEB_COMMANDS_H
#define TOOLS_GEB_COMMANDS_H

int command_demo(int argc, char **argv);
int command_rm(int argc, char **argv);

#endif
