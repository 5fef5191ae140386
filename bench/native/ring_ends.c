/* ring_ends.c: both ends of the ring in C, for bench_ring, and a bare cache-line ping.
 *
 * The reading end is what any C program gets from sprint.h. The writing end calls the package's own
 * compiled core by function pointers, so that what is measured is what is shipped. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ring.h"
#include "sprint.h"

#define EXPORT __attribute__((visibility("default")))

/* The same as STAMP in bench/oneway.py. */
typedef struct stamp {
    uint64_t due_ns;
    int64_t index;
} stamp;

typedef struct core_calls {
    int64_t (*publish)(sp_writer *, const sp_meta *, const sp_part *, uint64_t);
    int (*reserve)(sp_writer *, uint64_t, sp_reservation *);
    int (*advance)(sp_reservation *, uint64_t);
    int64_t (*commit)(sp_reservation *, const sp_meta *);
} core_calls;

typedef struct reading {
    sp_ring ring;
    sp_reader reader;
} reading;

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#if defined(__x86_64__)
#include <x86intrin.h>

/* The time-stamp counter, on CLOCK_MONOTONIC's scale: that clock costs 23 ns a call here and would
 * be called at both ends of every latency; rdtscp costs 10 and waits for the loads before it. Only
 * where the kernel takes the counter for its own clock does it run evenly on all cores. */
static uint64_t counter_base, base_ns;
static double ns_a_tick; /* 0: not to be trusted, or not yet known */

static double counter_rate(void)
{
    uint64_t counter = __rdtsc(), begin = monotonic_ns(), end = begin;
    while (end - begin < 50000000)
        end = monotonic_ns();
    return (double)(end - begin) / (double)(__rdtsc() - counter);
}

/* ends_trust_counter: from now on take the time from the counter. To be called before the two ends
 * are forked: a rate is known to a millionth only, and both have to err alike. */
EXPORT void ends_trust_counter(void)
{
    ns_a_tick = counter_rate();
    counter_base = __rdtsc();
    base_ns = monotonic_ns();
}

static inline uint64_t now_ns(void)
{
    unsigned core;
    if (ns_a_tick == 0)
        return monotonic_ns();
    return base_ns + (uint64_t)((double)(__rdtscp(&core) - counter_base) * ns_a_tick);
}
#else
EXPORT void ends_trust_counter(void) {}
static inline uint64_t now_ns(void) { return monotonic_ns(); }
#endif

/* ends_write sends count frames of `size` bytes by the timetable start_ns + i * interval_ns. With
 * from_commit the payload is in its place before its time and only the commit is done then.
 * Returns 0, or the core's negative code. */
EXPORT int64_t ends_write(const core_calls *core, sp_writer *writer, uint8_t *payload, uint64_t size,
                          int64_t count, uint64_t start_ns, uint64_t interval_ns, int from_commit)
{
    sp_meta meta = {.kind = SP_KIND_BLOCK, .chain = SP_CHAIN_BITCOIN, .level = SP_LEVEL_MERKLE};
    sp_part part = {payload, size};
    uint64_t due = start_ns;
    for (int64_t index = 0; index < count; index++, due += interval_ns) {
        sp_reservation place;
        int64_t code = 0;
        stamp mark = {due, index};
        memcpy(payload, &mark, sizeof mark);
        if (from_commit) {
            code = core->reserve(writer, size, &place);
            if (code < 0)
                return code;
            memcpy(place.bytes, payload, size);
            core->advance(&place, size);
        }
        while (now_ns() < due)
            ;
        code = from_commit ? core->commit(&place, &meta) : core->publish(writer, &meta, &part, 1);
        if (code < 0)
            return code;
    }
    return 0;
}

/* ends_open attaches to ring "blocks" of an instance; NULL when it can't. ends_close frees. */
EXPORT reading *ends_open(const char *instance)
{
    reading *self = calloc(1, sizeof *self);
    if (self != NULL && sp_attach(&self->ring, NULL, instance, "blocks") != SP_OK) {
        free(self);
        return NULL;
    }
    if (self != NULL)
        sp_reader_init(&self->reader, &self->ring, sp_head(&self->ring) + 1, SP_RESUME_OLDEST,
                       SP_WAIT_SPIN);
    return self;
}

EXPORT void ends_close(reading *self)
{
    sp_reader_close(&self->reader);
    sp_detach(&self->ring);
    free(self);
}

static uint64_t touch_all(const uint8_t *payload, uint32_t length)
{
    uint64_t sum = 0, word;
    for (uint32_t at = 0; at + sizeof word <= length; at += sizeof word) {
        memcpy(&word, payload + at, sizeof word);
        sum += word;
    }
    return sum;
}

/* ends_read waits for frames until one whose index is at least `end`, and puts latency by index
 * into latencies (end entries). Probes (index -1) are passed over; end 0 waits for any frame.
 * Returns 0 or sprint.h's negative code. */
EXPORT int ends_read(reading *self, int64_t end, int touch, int64_t *latencies)
{
    volatile uint64_t sink = 0;
    sp_frame frame = {.payload = NULL};
    stamp mark = {0, -1};
    do {
        int code = sp_wait(&self->reader, &frame, INT64_C(20000000000));
        if (code != SP_FRAME)
            return code < 0 ? code : SP_E_CLOSED;
        memcpy(&mark, frame.payload, sizeof mark);
        if (touch)
            sink += touch_all(frame.payload, frame.descriptor.length);
        int whole = sp_frame_valid(&self->ring, &frame);
        uint64_t now = now_ns();
        if (whole && mark.index >= 0 && mark.index < end)
            latencies[mark.index] = (int64_t)(now - mark.due_ns);
        if (!whole)
            mark.index = -1;
    } while (end > 0 && mark.index < end);
    return 0;
}

/* The bare ping: one cache line that two threads write in turn. */
typedef struct ping {
    _Alignas(128) _Atomic uint64_t turn;
    _Alignas(128) uint64_t trips;
    int core;
} ping;

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void *answer(void *argument)
{
    ping *line = argument;
    pin(line->core);
    for (uint64_t trip = 0; trip < line->trips; trip++) {
        while (atomic_load_explicit(&line->turn, memory_order_acquire) != 2 * trip + 1)
            ;
        atomic_store_explicit(&line->turn, 2 * trip + 2, memory_order_release);
    }
    return NULL;
}

/* trip sends the line there and back once. */
static inline void trip_once(ping *line, uint64_t trip)
{
    atomic_store_explicit(&line->turn, 2 * trip + 1, memory_order_release);
    while (atomic_load_explicit(&line->turn, memory_order_acquire) != 2 * trip + 2)
        ;
}

/* ends_ping: ns of `batches` mean round trips, `trips` in each, between the two cores. Back to back,
 * or with interval_ns one every so often, each timed by itself: the same line after a silence, as
 * every frame of a timetable meets it. Returns 0, or -1 when no thread could be made. */
EXPORT int ends_ping(int first_core, int second_core, uint64_t batches, uint64_t trips,
                     uint64_t interval_ns, double *means)
{
    ping line = {.turn = 0, .trips = batches * trips, .core = second_core};
    pthread_t partner;
    if (pthread_create(&partner, NULL, answer, &line) != 0)
        return -1;
    pin(first_core);
    uint64_t due = now_ns();
    for (uint64_t batch = 0, trip = 0; batch < batches; batch++) {
        uint64_t start = now_ns(), spent = 0;
        for (uint64_t end = trip + trips; trip < end; trip++) {
            if (interval_ns > 0) {
                due += interval_ns;
                while ((start = now_ns()) < due)
                    ;
            }
            trip_once(&line, trip);
            if (interval_ns > 0)
                spent += now_ns() - start;
        }
        if (interval_ns == 0)
            spent = now_ns() - start;
        means[batch] = (double)spent / (double)trips;
    }
    pthread_join(partner, NULL);
    return 0;
}
