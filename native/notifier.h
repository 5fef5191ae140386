/* notifier.h: one thread a process that turns publications into eventfds, for event loops. */
#ifndef SPRINT_NOTIFIER_H
#define SPRINT_NOTIFIER_H

#include "sprint.h"

#define SP_NOTIFIER_WATCHES_MAX 120u /* the kernel waits on at most 128 futexes at once */

/* sp_notifier_add makes event_fd readable whenever a frame is published to `ring`, or
 * it is closed, from now on and once right away. The first one starts the thread. The
 * ring stays mapped until sp_notifier_remove returns. SP_OK; SP_E_LIMIT; SP_E_SYSTEM with errno. */
int sp_notifier_add(sp_ring *ring, int event_fd);

/* sp_notifier_remove ends that; afterwards neither ring nor event_fd is touched. Thread-safe. */
void sp_notifier_remove(int event_fd);

#endif /* SPRINT_NOTIFIER_H */
