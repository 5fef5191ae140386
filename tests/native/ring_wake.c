/* ring_wake.c: are wake-ups lost? Readers that block, and a writer that publishes just as they fall
 * asleep.
 *
 *   ring_wake FRAMES READERS
 *
 * Sleeps have no bound here but ten seconds: a wake-up that is lost shows as a sleep that ends by
 * itself. The writer waits for all readers after each frame, a pseudo-random moment longer, so that it
 * sweeps over every point of their way into the kernel. Prints how often readers really slept. */
#define SP_SLEEP_NS_MAX INT64_C(10000000000)
#define SP_FUTEX_WAIT(word, expected, timeout_ns) watched_wait((word), (expected), (timeout_ns))

#include <stdint.h>

static int watched_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns);

#include "ring_rig.h"

static uint64_t sleeps, overslept;

static int watched_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    int cause = sp_futex_wait(word, expected, timeout_ns);
    __atomic_add_fetch(cause == 0 ? &sleeps : cause == ETIMEDOUT ? &overslept : &(uint64_t){0}, 1,
                       __ATOMIC_RELAXED);
    return cause;
}

static uint64_t reached[16];

typedef struct place {
    pthread_t thread;
    rig *one;
    int index;
} place;

static void *block(void *argument)
{
    place *mine = argument;
    sp_reader reader;
    sp_frame frame;
    int code;
    rig_reader(mine->one, &reader, SP_RESUME_OLDEST, SP_WAIT_BLOCK);
    while ((code = sp_wait(&reader, &frame, -1)) != SP_E_CLOSED) {
        REQUIRE(code >= 0, "%s", reader.detail);
        if (code == SP_FRAME)
            __atomic_store_n(&reached[mine->index], frame.descriptor.seq, __ATOMIC_RELEASE);
    }
    REQUIRE(reader.frames_lost == 0, "lost %llu", (unsigned long long)reader.frames_lost);
    sp_reader_close(&reader);
    return NULL;
}

static void await(int readers, uint64_t sequence)
{
    for (int at = 0; at < readers; at++)
        for (uint64_t looks = 0; __atomic_load_n(&reached[at], __ATOMIC_ACQUIRE) < sequence; looks++)
            if (looks > 100)
                sched_yield();
}

int main(int count, char **arguments)
{
    REQUIRE(count == 3, "usage: ring_wake FRAMES READERS");
    uint64_t frames = strtoull(arguments[1], NULL, 10), seed = 5;
    int readers = atoi(arguments[2]);
    static place places[16];
    rig one;
    rig_open(&one, 64, 1 << 20);
    for (int at = 0; at < readers && at < 16; at++) {
        places[at].one = &one;
        places[at].index = at;
        REQUIRE(pthread_create(&places[at].thread, NULL, block, &places[at]) == 0, "thread");
    }
    for (uint64_t number = 1; number <= frames; number++) {
        sp_meta meta = rig_meta(number);
        sp_part part = {rig_payload(number), 80};
        uint64_t until = sp_clock_ns(CLOCK_MONOTONIC) + rig_random(&seed) % 25000;
        while (sp_clock_ns(CLOCK_MONOTONIC) < until)
            ;
        REQUIRE(sp_writer_publish(&one.writer, &meta, &part, 1) == (int64_t)number, "publish");
        await(readers, number);
    }
    /* Readers may be on their way to sleep, and their sleep has no short bound here: tell them, and
     * tell them by a frame, which unlike the state they cannot fall asleep over. */
    SP_STORE_RELEASE(&one.writer.header->state, SP_STATE_CLOSED);
    sp_meta meta = rig_meta(1);
    sp_part part = {rig_payload(1), 80};
    REQUIRE(sp_writer_publish(&one.writer, &meta, &part, 1) > 0, "publish");
    for (int at = 0; at < readers && at < 16; at++)
        pthread_join(places[at].thread, NULL);
    printf("sleeps %llu overslept %llu\n", (unsigned long long)sleeps,
           (unsigned long long)overslept);
    rig_close(&one);
    return overslept == 0 ? 0 : 1;
}
