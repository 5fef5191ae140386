/* ring_stores.c: whatever readers do, and wherever the writer dies, at each of the writer's stores.
 *
 *   ring_stores ACTIONS
 *
 * Every store to shared memory is a moment, and so is every half of a payload's copy. At each of them
 * readers of all places poll, frames delivered earlier are looked at again, and a successor takes over
 * a copy of the segment as if the writer had died right then. What is said to be whole has to be. */
#define SP_STORE_RELAXED(address, value)                                                           \
    (__atomic_store_n((address), (value), __ATOMIC_RELAXED), moment())
#define SP_STORE_RELEASE(address, value)                                                           \
    (__atomic_store_n((address), (value), __ATOMIC_RELEASE), moment())
#define SP_PAYLOAD_COPY(to, from, length) in_halves((to), (from), (length))

#include <stddef.h>

static void moment(void);
static void in_halves(void *to, const void *from, size_t length);

#include "ring_rig.h"

/* The writer's C, compiled here so that it shares the macros. */
#include "../../native/ring.c"

#define SLOTS 8u
#define ARENA_BYTES 4096u /* the intent then goes up by single lines: no slack hides a mistake */
#define HELD 64u
#define ROOMS 6u
#define SUCCESSORS_NUMBER (UINT64_C(1) << 40)

static rig the_rig, copy;
static sp_frame held[HELD];
static uint64_t held_count, moments, deaths, whole, *numbers;
static int busy = 1;
static uint8_t room[NOISE_BYTES];

static void in_halves(void *to, const void *from, size_t length)
{
    size_t half = length / 2;
    memcpy(to, from, half);
    moment();
    memcpy((uint8_t *)to + half, (const uint8_t *)from + half, length - half);
    moment();
}

static void readers_look(void)
{
    uint64_t next = the_rig.writer.next, from = next > 3 * SLOTS ? next - 3 * SLOTS : 1;
    for (uint64_t at = from; at <= next; at++) {
        sp_reader reader;
        sp_frame frame;
        sp_reader_init(&reader, &the_rig.ring, at, SP_RESUME_OLDEST, SP_WAIT_SPIN);
        int code = sp_poll(&reader, &frame);
        REQUIRE(code >= 0, "%s", reader.detail);
        if (code != SP_FRAME)
            continue;
        REQUIRE(frame.descriptor.origin_ns == numbers[frame.descriptor.seq], "frame %llu",
                (unsigned long long)frame.descriptor.seq);
        whole += (uint64_t)rig_check(&the_rig.ring, &frame, room);
        held[held_count++ % HELD] = frame;
    }
    for (uint64_t at = 0; at < HELD && at < held_count; at++)
        (void)rig_check(&the_rig.ring, &held[at], room);
}

/* successor_looks: the writer dies now; all that is whole stays so while its successor goes on. */
static void successor_looks(void)
{
    sp_writer successor;
    sp_reader reader;
    sp_frame found[SLOTS];
    unsigned count = 0;
    memcpy(copy.writer.header, the_rig.writer.header, copy.bytes);
    int code = sp_writer_takeover(&successor, copy.writer.header, copy.bytes);
    REQUIRE(code == SP_OK, "%s", successor.detail);
    uint64_t next = the_rig.writer.next; /* a number that was visible is never used again */
    next += the_rig.writer.slots[next & the_rig.writer.slot_mask].seq == next;
    REQUIRE(successor.next == next, "next is %llu instead of %llu",
            (unsigned long long)successor.next, (unsigned long long)next);
    uint64_t first = sp_oldest(&copy.ring, 1);
    sp_reader_init(&reader, &copy.ring, first, SP_RESUME_OLDEST, SP_WAIT_SPIN);
    while (count < SLOTS && (code = sp_poll(&reader, &found[count])) == SP_FRAME)
        (void)rig_check(&copy.ring, &found[count++], room);
    REQUIRE(code >= 0, "%s", reader.detail);
    for (uint64_t number = SUCCESSORS_NUMBER; number < SUCCESSORS_NUMBER + 4; number++) {
        sp_meta meta = rig_meta(number);
        sp_part part = {rig_payload(number), 700};
        REQUIRE(sp_writer_publish(&successor, &meta, &part, 1) > 0, "%s", successor.detail);
        for (unsigned at = 0; at < count; at++)
            (void)rig_check(&copy.ring, &found[at], room);
    }
    deaths++;
}

static void moment(void)
{
    if (busy)
        return;
    busy = 1;
    moments++;
    readers_look();
    successor_looks();
    busy = 0;
}

typedef struct open_room {
    sp_reservation reservation;
    uint64_t number;
} open_room;

static void publish(uint64_t number, uint32_t length)
{
    sp_meta meta = rig_meta(number);
    sp_part parts[2] = {{rig_payload(number), length / 3},
                        {rig_payload(number) + length / 3, length - length / 3}};
    numbers[the_rig.writer.next] = number;
    REQUIRE(sp_writer_publish(&the_rig.writer, &meta, parts, 2) > 0, "%s", the_rig.writer.detail);
}

/* go_on receives into an open reservation, and commits or abandons it in the end. */
static void go_on(open_room *one, uint64_t draw)
{
    sp_reservation *reservation = &one->reservation;
    uint32_t left = reservation->capacity - reservation->length;
    if (left > 0 && draw % 4 != 0) {
        uint32_t count = left < 100 ? left : left / 2;
        in_halves(reservation->bytes + reservation->length,
                  rig_payload(one->number) + reservation->length, count);
        REQUIRE(sp_reservation_advance(reservation, count) == SP_OK, "advance");
    } else if (draw % 3 == 0) {
        sp_reservation_abandon(reservation);
    } else {
        sp_meta meta = rig_meta(one->number);
        numbers[the_rig.writer.next] = one->number;
        REQUIRE(sp_reservation_commit(reservation, &meta) > 0, "commit");
    }
}

int main(int count, char **arguments)
{
    REQUIRE(count == 2, "usage: ring_stores ACTIONS");
    uint64_t actions = strtoull(arguments[1], NULL, 10), seed = 11;
    static open_room rooms[ROOMS];
    numbers = calloc(actions + 2, sizeof *numbers);
    REQUIRE(numbers != NULL, "memory");
    rig_open(&the_rig, SLOTS, ARENA_BYTES);
    rig_open(&copy, SLOTS, ARENA_BYTES);
    busy = 0;
    for (uint64_t number = 1; number <= actions; number++) {
        uint64_t draw = rig_random(&seed) >> 8;
        uint32_t most = number / 50 % 2 == 0 ? 200 : ARENA_BYTES / SP_PAYLOAD_SHARE;
        open_room *one = &rooms[draw % ROOMS];
        draw /= ROOMS;
        if (draw % 3 == 0) {
            publish(number, (uint32_t)(draw / 3 % (most + 1)));
        } else if (one->reservation.state != SP_RESERVATION_DONE) {
            go_on(one, draw / 3);
        } else {
            one->number = number;
            REQUIRE(sp_writer_reserve(&the_rig.writer, 1 + draw / 3 % (most / 2),
                                      &one->reservation) == SP_OK, "reserve");
        }
    }
    busy = 1;
    printf("moments %llu deaths %llu whole %llu revocations %llu frames %llu\n",
           (unsigned long long)moments, (unsigned long long)deaths, (unsigned long long)whole,
           (unsigned long long)the_rig.writer.revocations,
           (unsigned long long)the_rig.writer.next - 1);
    rig_close(&the_rig);
    rig_close(&copy);
    free(numbers);
    return 0;
}
