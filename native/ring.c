/* ring.c: publish frames, and receive into reservations.
 *
 * Order of one publication, and why:
 *   tail_intent <- end, fence(release)   whoever sees a byte of the payload sees the intent
 *   payload
 *   slot.seq <- seq - 1, fence(release)  whoever sees a new word of the descriptor sees this mark
 *   descriptor by relaxed words
 *   slot.seq <- seq (release)            whoever sees seq sees descriptor and payload
 *   head_hint <- seq (release), fence(seq_cst), look for sleepers
 * A writer that dies between any two of these stores leaves a segment that a successor can go on
 * with: the intent may cover too much, never too little, and a number is used once it was visible.
 *
 * Reservations lie in the arena as any payload does, are covered by the intent from the start, and
 * are published in the order in which they are committed. The allocator never waits for one: an
 * allocation that would lap it moves its bytes to private memory first. */
#include "ring.h"

#include "crc32c.h"

#include <stdlib.h>

#define COPY_CHUNK_BYTES UINT64_C(32768) /* stays in the first-level cache between copy and CRC */
#define WALL_KEPT_NS UINT64_C(1000000) /* how long the wall clock's lead is believed */
#define NON_TEMPORAL_BYTES UINT64_C(4096) /* no memcpy goes past the caches below this */

/* The newest stamp, and how far CLOCK_REALTIME was ahead of CLOCK_MONOTONIC when it was last looked
 * at. One thread publishes; relaxed accesses, so that a second one would be no undefined behaviour. */
static uint64_t last_stamp_ns, wall_ahead_ns, wall_looked_ns;

static inline uint64_t next_stamp_ns(uint64_t now, uint64_t floor)
{
    uint64_t last = __atomic_load_n(&last_stamp_ns, __ATOMIC_RELAXED);
    uint64_t least = (last > floor ? last : floor) + 1;
    uint64_t stamp = now > least ? now : least;
    __atomic_store_n(&last_stamp_ns, stamp, __ATOMIC_RELAXED);
    return stamp;
}

uint64_t sp_stamp_ns(uint64_t floor)
{
    return next_stamp_ns(sp_clock_ns(CLOCK_MONOTONIC), floor);
}

/* go_private moves an open reservation out of the arena, before its bytes there are overwritten. */
static void go_private(sp_reservation *reservation)
{
    sp_writer *writer = reservation->writer;
    uint8_t *own = malloc(reservation->capacity);
    writer->reserved_bytes -= reservation->capacity;
    writer->revocations++;
    if (own != NULL)
        memcpy(own, reservation->bytes, reservation->length);
    reservation->bytes = own;
    reservation->state = own != NULL ? SP_RESERVATION_REVOKED : SP_RESERVATION_LOST;
}

/* revoke_lapped makes way for an intent of `intent`: readers will take no payload for whole that
 * lies more than the arena's size below it. */
static void revoke_lapped(sp_writer *writer, uint64_t intent)
{
    if (writer->reserved_bytes == 0)
        return;
    for (uint32_t at = 0; at < writer->reservation_count; at++) {
        sp_reservation *open = writer->reservations[at];
        if (open->state == SP_RESERVATION_OPEN && intent - open->position > writer->arena_bytes)
            go_private(open);
    }
}

/* sp_raise_intent announces, before any byte of it is written, that positions below `end` are
 * used. It goes up in steps, ahead of need: small frames then mostly leave its line alone, which
 * every reader looks at for every frame and so would have to be fetched back each time. */
static inline void sp_raise_intent(sp_writer *writer, uint64_t end, uint64_t length)
{
    if (end > writer->intent) {
        writer->intent = sp_round_up(end, writer->intent_step);
        revoke_lapped(writer, writer->intent);
        SP_STORE_RELAXED(&writer->header->tail_intent, writer->intent);
    }
    /* SYNC: pairs with the acquire fence in sp_intact. */
    SP_FENCE_RELEASE();
    if (length >= NON_TEMPORAL_BYTES)
        SP_FENCE_STORES();
}

/* sp_allocate takes `length` bytes of the arena, whole before its end, and returns their position.
 * The caller has checked length against the payload bound. */
static inline uint64_t sp_allocate(sp_writer *writer, uint64_t length)
{
    uint64_t position = writer->allocated;
    uint64_t offset = position % writer->arena_bytes;
    if (offset + length > writer->arena_bytes)
        position += writer->arena_bytes - offset;
    uint64_t end = sp_round_up(position + length, SP_PAYLOAD_ALIGN);
    writer->allocated = end;
    sp_raise_intent(writer, end, length);
    return position;
}

static uint32_t sp_gather(uint8_t *to, const sp_part *parts, uint64_t part_count)
{
    uint32_t crc = 0;
    for (uint64_t part = 0; part < part_count; part++) {
        const uint8_t *from = parts[part].bytes;
        uint64_t left = parts[part].length;
        while (left > 0) {
            uint64_t count = left < COPY_CHUNK_BYTES ? left : COPY_CHUNK_BYTES;
            SP_PAYLOAD_COPY(to, from, count);
            /* Of what was copied, which nobody can change meanwhile; but a short payload's bytes
             * may wait long for their lines, and reading them back would wait as well. */
            crc = sp_crc32c(crc, count < NON_TEMPORAL_BYTES ? from : to, count);
            to += count;
            from += count;
            left -= count;
        }
    }
    return crc;
}

/* sp_write_slot makes the frame visible. `words` is its descriptor but for the sequence number.
 *
 * It is put together in whole words from the start: read back as words after narrower stores, it
 * would wait for those to leave the store buffer, behind the payload's lines (bench/bench_ring.py,
 * C reader at 80 B: 285 ns against 244). */
static inline void sp_write_slot(sp_writer *writer, uint64_t sequence,
                                 const uint64_t words[SP_SLOT_BYTES / 8])
{
    uint64_t *to = (uint64_t *)(void *)&writer->slots[sequence & writer->slot_mask];
    SP_STORE_RELAXED(to, sequence - 1);
    /* SYNC: pairs with the acquire fence in sp_take and sp_whole. */
    SP_FENCE_RELEASE();
    for (unsigned at = 1; at < SP_SLOT_BYTES / 8; at++)
        SP_STORE_RELAXED(to + at, words[at]);
    /* SYNC: pairs with the acquire loads of slot.seq in sp_poll, sp_ready, sp_head and sp_whole. */
    SP_STORE_RELEASE(to, sequence);
}

/* sp_prefetch asks for the lines that a small frame will be written to, all but the slot's first,
 * which readers look at all the time and would only fetch back: that happens while the clock is
 * read. Not earlier: a reader's own prefetcher learns where payloads come and takes them away again.
 * Changes nothing that anybody can see. */
static inline void sp_prefetch(const sp_writer *writer)
{
    const uint8_t *slot = (const uint8_t *)&writer->slots[writer->next & writer->slot_mask];
    const uint8_t *payload = writer->arena + writer->allocated % writer->arena_bytes;
    SP_PREFETCH_WRITE(payload);
    SP_PREFETCH_WRITE(payload + 64);
    SP_PREFETCH_WRITE(slot + 64);
}

/* sp_announce moves the head hint and wakes whoever sleeps. */
static inline void sp_announce(sp_writer *writer, uint64_t sequence)
{
    /* SYNC: pairs with the acquire loads of head_hint in sp_head and sp_sleep. */
    SP_STORE_RELEASE(&writer->header->head_hint, sequence);
    /* SYNC: pairs with the seq_cst fence in sp_sleep. */
    SP_FENCE_SEQ_CST();
    if (writer->wake_flag != NULL && SP_LOAD_RELAXED(writer->wake_flag) != 0 &&
        SP_EXCHANGE(writer->wake_flag, 0) != 0)
        SP_FUTEX_WAKE_ALL(&writer->header->head_hint);
}

/* When a frame was published. Taken before a short payload is copied, after a long one. */
typedef struct sp_instant {
    uint64_t publish_ns;
    uint64_t stamp_ns;
} sp_instant;

/* sp_now reads one clock, 23 ns here, and the other from how far ahead it was at most WALL_KEPT_NS
 * ago: a step of the wall clock shows that much later, its slewing (500 ppm) is 0.5 us. */
static inline sp_instant sp_now(void)
{
    uint64_t now = sp_clock_ns(CLOCK_MONOTONIC);
    if (now - __atomic_load_n(&wall_looked_ns, __ATOMIC_RELAXED) > WALL_KEPT_NS) {
        __atomic_store_n(&wall_ahead_ns, sp_clock_ns(CLOCK_REALTIME) - now, __ATOMIC_RELAXED);
        __atomic_store_n(&wall_looked_ns, now, __ATOMIC_RELAXED);
    }
    return (sp_instant){.publish_ns = now + __atomic_load_n(&wall_ahead_ns, __ATOMIC_RELAXED),
                        .stamp_ns = next_stamp_ns(now, 0)};
}

static inline uint64_t sp_word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static int64_t publish_at(sp_writer *writer, const sp_meta *meta, uint64_t position,
                          uint64_t length, uint32_t crc, sp_instant now)
{
    uint64_t sequence = writer->next;
    const uint64_t words[SP_SLOT_BYTES / 8] = {
        0, /* seq, which sp_write_slot stores twice */
        position,
        length | (uint64_t)crc << 32,
        meta->kind | (uint64_t)meta->chain << 8 | (uint64_t)meta->level << 16 |
            (uint64_t)meta->flags << 32,
        (uint32_t)meta->height | (uint64_t)meta->source << 32,
        sp_word_at(meta->hash),
        sp_word_at(meta->hash + 8),
        sp_word_at(meta->hash + 16),
        sp_word_at(meta->hash + 24),
        now.publish_ns,
        meta->origin_ns,
        meta->first_byte_ns,
        meta->last_byte_ns,
        now.stamp_ns,
    };
    if (length >= NON_TEMPORAL_BYTES)
        SP_FENCE_STORES();
    sp_write_slot(writer, sequence, words);
    writer->next = sequence + 1;
    sp_announce(writer, sequence);
    return (int64_t)sequence;
}

int64_t sp_writer_publish(sp_writer *writer, const sp_meta *meta, const sp_part *parts,
                          uint64_t part_count)
{
    uint64_t length = 0, most = writer->arena_bytes / SP_PAYLOAD_SHARE;
    for (uint64_t part = 0; part < part_count; part++) {
        if (parts[part].length > most - length)
            return sp_refuse(SP_E_LIMIT, writer->detail,
                             "a payload may have %llu bytes, half the arena",
                             (unsigned long long)most);
        length += parts[part].length;
    }
    sp_prefetch(writer);
    sp_instant now = {0, 0};
    if (length < NON_TEMPORAL_BYTES)
        now = sp_now();
    uint64_t position = sp_allocate(writer, length);
    uint32_t crc = sp_gather(writer->arena + position % writer->arena_bytes, parts, part_count);
    if (length >= NON_TEMPORAL_BYTES)
        now = sp_now();
    return publish_at(writer, meta, position, length, crc, now);
}

void sp_meta_fill(sp_meta *meta, uint32_t kind, uint32_t chain, uint32_t level, uint32_t flags,
                  int32_t height, uint32_t source, const uint8_t *hash, uint64_t origin_ns,
                  uint64_t first_byte_ns, uint64_t last_byte_ns)
{
    *meta = (sp_meta){.kind = (uint8_t)kind,
                      .chain = (uint8_t)chain,
                      .level = (uint8_t)level,
                      .flags = flags,
                      .height = height,
                      .source = (uint16_t)source,
                      .origin_ns = origin_ns,
                      .first_byte_ns = first_byte_ns,
                      .last_byte_ns = last_byte_ns};
    memcpy(meta->hash, hash, sizeof meta->hash);
}

int64_t sp_writer_publish_one(sp_writer *writer, uint32_t kind, uint32_t chain, uint32_t level,
                              uint32_t flags, int32_t height, uint32_t source, const uint8_t *hash,
                              uint64_t origin_ns, uint64_t first_byte_ns, uint64_t last_byte_ns,
                              const uint8_t *bytes, uint64_t length)
{
    sp_part part = {bytes, length};
    sp_meta meta;
    sp_meta_fill(&meta, kind, chain, level, flags, height, source, hash, origin_ns, first_byte_ns,
                 last_byte_ns);
    return sp_writer_publish(writer, &meta, &part, 1);
}

int sp_writer_reserve(sp_writer *writer, uint64_t capacity, sp_reservation *reservation)
{
    memset(reservation, 0, sizeof *reservation);
    if (capacity == 0 || capacity > writer->arena_bytes / SP_PAYLOAD_SHARE)
        return sp_refuse(SP_E_LIMIT, writer->detail, "a reservation may have 1 to %llu bytes",
                         (unsigned long long)(writer->arena_bytes / SP_PAYLOAD_SHARE));
    if (writer->reservation_count == SP_RESERVATIONS_MAX)
        return sp_refuse(SP_E_LIMIT, writer->detail, "%u reservations are open already",
                         SP_RESERVATIONS_MAX);
    reservation->writer = writer;
    reservation->capacity = (uint32_t)capacity;
    if (writer->reserved_bytes + capacity <= writer->arena_bytes / SP_RESERVED_SHARE) {
        reservation->position = sp_allocate(writer, capacity);
        reservation->bytes = writer->arena + reservation->position % writer->arena_bytes;
        reservation->state = SP_RESERVATION_OPEN;
        writer->reserved_bytes += capacity;
        SP_FENCE_STORES(); /* the caller may receive with stores that release does not order */
    } else {
        reservation->bytes = malloc(capacity);
        if (reservation->bytes == NULL)
            return sp_refuse(SP_E_MEMORY, writer->detail, "no memory for a reservation");
        reservation->state = SP_RESERVATION_REVOKED;
    }
    reservation->index = writer->reservation_count;
    writer->reservations[writer->reservation_count++] = reservation;
    return SP_OK;
}

int sp_reservation_advance(sp_reservation *reservation, uint64_t count)
{
    if (reservation->state == SP_RESERVATION_LOST)
        return SP_E_MEMORY;
    if (reservation->state == SP_RESERVATION_DONE ||
        count > reservation->capacity - reservation->length)
        return SP_E_ARGUMENT;
    reservation->crc32c =
        sp_crc32c(reservation->crc32c, reservation->bytes + reservation->length, count);
    reservation->length += (uint32_t)count;
    return SP_OK;
}

/* finish takes the reservation out of the writer's table. */
static void finish(sp_reservation *reservation)
{
    sp_writer *writer = reservation->writer;
    sp_reservation *last = writer->reservations[--writer->reservation_count];
    writer->reservations[reservation->index] = last;
    last->index = reservation->index;
    if (reservation->state == SP_RESERVATION_OPEN)
        writer->reserved_bytes -= reservation->capacity;
    else
        free(reservation->bytes);
    reservation->bytes = NULL;
    reservation->state = SP_RESERVATION_DONE;
}

int64_t sp_reservation_commit(sp_reservation *reservation, const sp_meta *meta)
{
    sp_writer *writer = reservation->writer;
    int64_t outcome;
    if (reservation->state == SP_RESERVATION_DONE)
        return SP_E_ARGUMENT;
    if (reservation->state == SP_RESERVATION_LOST) {
        outcome = SP_E_MEMORY;
    } else if (reservation->state == SP_RESERVATION_OPEN) {
        SP_FENCE_STORES();
        outcome = publish_at(writer, meta, reservation->position, reservation->length,
                             reservation->crc32c, sp_now());
    } else {
        uint64_t position = sp_allocate(writer, reservation->length);
        SP_PAYLOAD_COPY(writer->arena + position % writer->arena_bytes, reservation->bytes,
                      reservation->length);
        outcome = publish_at(writer, meta, position, reservation->length, reservation->crc32c,
                             sp_now());
    }
    finish(reservation);
    return outcome;
}

void sp_reservation_abandon(sp_reservation *reservation)
{
    if (reservation->state == SP_RESERVATION_DONE)
        return;
    sp_writer *writer = reservation->writer;
    /* Nobody was told of these bytes: where they were the last ones allocated, the next allocation
     * takes them again. The intent stays: it never goes back. */
    uint64_t end = sp_round_up(reservation->position + reservation->capacity, SP_PAYLOAD_ALIGN);
    if (reservation->state == SP_RESERVATION_OPEN && writer->allocated == end)
        writer->allocated = reservation->position;
    finish(reservation);
}

void sp_writer_drop(sp_writer *writer)
{
    while (writer->reservation_count > 0)
        sp_reservation_abandon(writer->reservations[writer->reservation_count - 1]);
}

int sp_writer_set_source(sp_writer *writer, uint32_t index, const char *name)
{
    size_t length = strlen(name);
    if (index >= SP_SOURCES_MAX || length >= SP_SOURCE_NAME_BYTES)
        return SP_E_ARGUMENT;
    sp_source *entry =
        (sp_source *)(void *)((uint8_t *)writer->header + SP_SOURCES_OFFSET) + index;
    uint32_t version = SP_LOAD_RELAXED(&entry->version) | 1u;
    SP_STORE_RELAXED(&entry->version, version);
    SP_FENCE_RELEASE(); /* SYNC: pairs with the acquire fence in sp_source_name */
    for (size_t at = 0; at < SP_SOURCE_NAME_BYTES; at++)
        SP_STORE_RELAXED(&entry->name[at], at < length ? name[at] : (char)0);
    SP_STORE_RELEASE(&entry->version, version + 1); /* SYNC: pairs with sp_source_name's load */
    return SP_OK;
}

void sp_writer_heartbeat(sp_writer *writer)
{
    SP_STORE_RELAXED(&writer->header->heartbeat_ns, sp_clock_ns(CLOCK_MONOTONIC));
}
