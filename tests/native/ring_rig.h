/* ring_rig.h: a ring in this process's memory, its writer, and frames that can be told apart. */
#ifndef RING_RIG_H
#define RING_RIG_H

#include "ring.h"

#include "crc32c.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define NOISE_BYTES (1u << 18)
static uint8_t rig_noise[NOISE_BYTES];

typedef struct rig {
    sp_writer writer;
    sp_ring ring; /* shares the writer's mapping, so that a race checker sees one memory */
    void *wake;
    int wake_fd;
    uint64_t bytes;
} rig;

static inline uint64_t rig_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void rig_open(rig *one, uint64_t slot_count, uint64_t arena_bytes)
{
    memset(one, 0, sizeof *one);
    one->bytes = sp_segment_bytes(slot_count, arena_bytes);
    void *base = mmap(NULL, one->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(base != MAP_FAILED, "mmap");
    int code = sp_writer_format(&one->writer, base, one->bytes, slot_count, arena_bytes, "rig",
                                "regtest", "tx", 7);
    REQUIRE(code == SP_OK, "%s", one->writer.detail);
    one->wake_fd = memfd_create("wake", MFD_CLOEXEC);
    REQUIRE(one->wake_fd >= 0 && ftruncate(one->wake_fd, SP_WAKE_BYTES) == 0, "memfd");
    one->wake = sp_wake_map(one->wake_fd);
    REQUIRE(one->wake != NULL, "wake");
    sp_wake_format(one->wake);
    sp_writer_set_wake(&one->writer, one->wake, 1, SP_WAKE_FLAG_OFFSET);
    one->ring.header = one->writer.header;
    one->ring.slots = one->writer.slots;
    one->ring.arena = one->writer.arena;
    one->ring.mapped_bytes = one->bytes;
    one->ring.slot_mask = slot_count - 1;
    one->ring.arena_bytes = arena_bytes;
    one->ring.session = 7;
    one->ring.fd = -1; /* no file: nobody asks whether it still has a name */
    uint64_t seed = 99;
    for (uint32_t at = 0; rig_noise[NOISE_BYTES - 1] == 0 && at < NOISE_BYTES; at++)
        rig_noise[at] = (uint8_t)(rig_random(&seed) >> 32 | 1);
}

static inline void rig_reader(rig *one, sp_reader *reader, int resume, int mode)
{
    sp_reader_init(reader, &one->ring, 1, resume, mode);
    reader->wake_inode = 1;
    reader->wake_fd = dup(one->wake_fd);
}

static inline void rig_close(rig *one)
{
    sp_writer_drop(&one->writer);
    sp_wake_unmap(one->wake);
    close(one->wake_fd);
    munmap(one->writer.header, one->bytes);
}

/* The frame of `number`: its payload is a stretch of the noise, its fields follow from it. */
static inline const uint8_t *rig_payload(uint64_t number)
{
    return rig_noise + number * 7919 % (NOISE_BYTES / 2);
}

static inline sp_meta rig_meta(uint64_t number)
{
    uint8_t hash[32];
    sp_meta meta;
    for (int at = 0; at < 4; at++)
        memcpy(hash + 8 * at, &number, 8);
    sp_meta_fill(&meta, 16, 1, number % 4, (uint32_t)number, (int32_t)(number & 0x7fffffff),
                 number % 64, hash, number, ~number, number * 3);
    return meta;
}

/* rig_check copies the payload to `room` and requires the frame to be one of ours, whole, or
 * honestly overwritten. Returns 1 when it was whole. */
static inline int rig_check(const sp_ring *ring, const sp_frame *frame, uint8_t *room)
{
    const sp_descriptor *found = &frame->descriptor;
    uint64_t number = found->origin_ns;
    sp_meta meta = rig_meta(number);
    REQUIRE(memcmp(found->hash, meta.hash, 32) == 0 && found->flags == meta.flags &&
                found->height == meta.height && found->source == meta.source &&
                found->level == meta.level && found->first_byte_ns == ~number &&
                found->last_byte_ns == number * 3,
            "frame %llu is mixed", (unsigned long long)found->seq);
    REQUIRE(found->length <= NOISE_BYTES / 2, "length %u", found->length);
    if (sp_frame_copy(ring, frame, room) != SP_OK)
        return 0;
    REQUIRE(memcmp(room, rig_payload(number), found->length) == 0 &&
                sp_crc32c(0, room, found->length) == found->crc32c,
            "frame %llu is torn", (unsigned long long)found->seq);
    return 1;
}

#endif /* RING_RIG_H */
