/* notifier.c: the thread behind Reader.fileno().
 *
 * It sleeps on the head hints of all watched rings at once (futex_waitv) and on a word of its own
 * that changes when the set of watches does; where the kernel has no futex_waitv (before 5.16) it
 * looks every millisecond. All touching of rings and eventfds happens under the lock, so that a
 * watch is gone when sp_notifier_remove returns. The thread needs no interpreter and no GIL. */
#include "notifier.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* The kernel's struct futex_waitv, which older headers lack. */
typedef struct wait_entry {
    uint64_t expected;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
} wait_entry;

#define WAIT_32_BITS 2u
#define WAIT_PRIVATE 128u

typedef struct watch {
    sp_reader reader; /* for its .wake descriptor alone */
    uint64_t head;    /* last one told */
    int ended;        /* what was told of the ring's end */
    int event_fd;
} watch;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static watch watches[SP_NOTIFIER_WATCHES_MAX];
static uint32_t watch_count;
static uint32_t generation; /* changes with the set of watches; the thread sleeps on it too */
static int running, fork_handled;

static void tell(int event_fd)
{
    (void)!eventfd_write(event_fd, 1); /* fails only when it is readable anyway */
}

/* look raises the watch's flag, tells it of news, and fills the entry to sleep on. Returns 1 when
 * the flag is up, so that the sleep may be long. doubt: ask whether there is a writer at all. */
static int look(watch *one, wait_entry *entry, int doubt)
{
    const sp_header *header = one->reader.ring->header;
    if (one->reader.wake_inode != SP_LOAD_ACQUIRE(&header->wake_inode))
        sp_open_wake(&one->reader);
    int raised =
        one->reader.wake_fd >= 0 && SP_RAISE_FLAG(one->reader.wake_fd, header->wake_offset) == 0;
    SP_FENCE_SEQ_CST(); /* SYNC: pairs with the seq_cst fence in sp_announce */
    uint64_t head = SP_LOAD_ACQUIRE(&header->head_hint); /* SYNC: pairs with sp_announce's store */
    int ended = sp_ended(one->reader.ring) || (doubt && sp_orphaned(one->reader.ring));
    if (head != one->head || ended != one->ended) {
        one->head = head;
        one->ended = ended;
        tell(one->event_fd);
    }
    entry->expected = (uint32_t)head;
    entry->address = (uint64_t)(uintptr_t)&header->head_hint;
    entry->flags = WAIT_32_BITS;
    entry->reserved = 0;
    return raised;
}

static void sleep_on(wait_entry *entries, unsigned count, int64_t bound_ns)
{
    struct timespec until;
    uint64_t end = sp_clock_ns(CLOCK_MONOTONIC) + (uint64_t)bound_ns;
    until.tv_sec = (time_t)(end / UINT64_C(1000000000));
    until.tv_nsec = (long)(end % UINT64_C(1000000000));
    /* Any other refusal (an old kernel, a sandbox) must not make this loop a busy one. */
    if (syscall(SYS_futex_waitv, entries, count, 0, &until, CLOCK_MONOTONIC) < 0 &&
        errno != EAGAIN && errno != ETIMEDOUT && errno != EINTR) {
        struct timespec pause = {0, SP_SLEEP_NS_UNWAKED};
        nanosleep(&pause, NULL);
    }
}

static void *run(void *unused)
{
    (void)unused;
    uint64_t doubted_ns = 0;
    for (;;) {
        wait_entry entries[SP_NOTIFIER_WATCHES_MAX + 1];
        int64_t bound_ns = SP_SLEEP_NS_MAX;
        pthread_mutex_lock(&lock);
        if (watch_count == 0) {
            running = 0;
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        uint64_t now_ns = sp_clock_ns(CLOCK_MONOTONIC);
        int doubt = now_ns - doubted_ns >= (uint64_t)SP_SLEEP_NS_MAX;
        if (doubt)
            doubted_ns = now_ns;
        for (uint32_t at = 0; at < watch_count; at++)
            if (!look(&watches[at], &entries[at], doubt))
                bound_ns = SP_SLEEP_NS_UNWAKED;
        entries[watch_count] = (wait_entry){generation, (uint64_t)(uintptr_t)&generation,
                                            WAIT_32_BITS | WAIT_PRIVATE, 0};
        unsigned count = watch_count + 1;
        pthread_mutex_unlock(&lock);
        sleep_on(entries, count, bound_ns);
    }
}

static void hold(void) { pthread_mutex_lock(&lock); }
static void let_go(void) { pthread_mutex_unlock(&lock); }

/* A child of fork has none of its parent's threads: it starts afresh. */
static void in_child(void)
{
    watch_count = 0;
    running = 0;
    pthread_mutex_unlock(&lock);
}

/* start_thread is called with the lock held. Signals are for the interpreter's own threads. */
static int start_thread(void)
{
    pthread_t thread;
    sigset_t all, before;
    if (running)
        return 0;
    if (!fork_handled) {
        if (pthread_atfork(hold, let_go, in_child) != 0)
            return ENOMEM;
        fork_handled = 1;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int cause = pthread_create(&thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (cause == 0) {
        pthread_detach(thread);
        running = 1;
    }
    return cause;
}

/* changed is called with the lock held. */
static void changed(void)
{
    /* SYNC: pairs with the look that futex_waitv takes at the word before it sleeps */
    __atomic_add_fetch(&generation, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &generation, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

int sp_notifier_add(sp_ring *ring, int event_fd)
{
    int code = SP_OK;
    pthread_mutex_lock(&lock);
    if (watch_count == SP_NOTIFIER_WATCHES_MAX) {
        code = SP_E_LIMIT;
    } else {
        watch *one = &watches[watch_count++];
        sp_reader_init(&one->reader, ring, 1, SP_RESUME_OLDEST, SP_WAIT_BLOCK);
        one->event_fd = event_fd;
        one->head = SP_LOAD_ACQUIRE(&ring->header->head_hint); /* SYNC: sp_announce's store */
        one->ended = sp_ended(ring);
        tell(event_fd);
        int cause = start_thread();
        if (cause != 0) {
            watch_count--;
            errno = cause;
            code = SP_E_SYSTEM;
        }
        changed();
    }
    pthread_mutex_unlock(&lock);
    return code;
}

void sp_notifier_remove(int event_fd)
{
    pthread_mutex_lock(&lock);
    for (uint32_t at = 0; at < watch_count; at++) {
        if (watches[at].event_fd == event_fd) {
            sp_reader_close(&watches[at].reader);
            watches[at] = watches[--watch_count];
            changed();
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}
