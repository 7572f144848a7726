/*
 * gone: whether the memory of a child that has ended is gone, and with it the locks of its slots.
 *
 * A process that has ended, and been waited for, may have an address space yet: whoever reads
 * /proc/PID/cmdline, maps and the like holds it until the read is over, as ps and top do. So a test
 * that wants the dead to be dead waits for that, too.
 *
 * Method: the child maps a page of a file of the test, through an open file description of its own
 * on which it has locked the byte of its pid: as peer.h does it, on purpose.
 */
#ifndef GEB_TESTS_GONE_H
#define GEB_TESTS_GONE_H

#include <stdbool.h>
#include <sys/types.h>

/* In the parent, before the fork. */
void gone_prepare(void);
/* In the child, first thing. */
void gone_mark(void);
/* In the child: others will go on in its memory, so nobody shall wait for its end. */
void gone_unmark(void);
/* In the parent, when the child has ended. False: its memory stays. At once for any other pid. */
bool gone_await(pid_t pid);

#endif
