/* The subcommands of geb, one file each. Each parses its own arguments (argv[0] is its name) and
 * returns the exit code. */
#ifndef TOOLS_GEB_COMMANDS_H
#define TOOLS_GEB_COMMANDS_H

int command_consume(int argc, char **argv);
int command_create(int argc, char **argv);
int command_demo(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_info(int argc, char **argv);
int command_ls(int argc, char **argv);
int command_pub(int argc, char **argv);
int command_rm(int argc, char **argv);
int command_tap(int argc, char **argv);

#endif
