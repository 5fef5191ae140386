/* ring.h: the writer's side of the ring, and the notifier behind asyncio. Readers: sprint.h.
 *
 * One thread owns a writer: it allocates, receives into reservations and publishes. Nothing here
 * takes a lock or waits. Opening, locking and unlinking files is ring/segment.py's; this side is
 * given a mapping that it alone may write. */
#ifndef SPRINT_RING_H
#define SPRINT_RING_H

#include "sprint.h"

#define SP_RESERVATIONS_MAX 256u /* open at a time, in the arena or in private memory */
#define SP_RESERVED_SHARE 4u     /* open reservations take at most this part of the arena */
#define SP_PAYLOAD_SHARE 2u      /* one payload takes at most this part of the arena */
#define SP_INTENT_STEP_MAX UINT64_C(65536)
#define SP_INTENT_STEP_SHARE UINT64_C(64) /* ... and at most this part of the arena */

/* Bring a line into this core's cache, to be written. */
#if defined(__x86_64__)
#define SP_PREFETCH_WRITE(address) __asm__ __volatile__("prefetchw %0" ::"m"(*(address)))
#else
#define SP_PREFETCH_WRITE(address) __builtin_prefetch((address), 1, 3)
#endif

/* One piece of a gathered payload. */
typedef struct sp_part {
    const void *bytes;
    uint64_t length;
} sp_part;

/* What the caller says about a frame; the writer adds sequence, position, length, CRC and times. */
typedef struct sp_meta {
    uint8_t kind;
    uint8_t chain;
    uint8_t level;
    uint8_t reserved0;
    uint32_t flags;
    int32_t height;
    uint16_t source;
    uint16_t reserved1;
    uint8_t hash[32];
    uint64_t origin_ns;
    uint64_t first_byte_ns;
    uint64_t last_byte_ns;
} sp_meta;

enum sp_reservation_state {
    SP_RESERVATION_DONE = 0,    /* committed or abandoned */
    SP_RESERVATION_OPEN = 1,    /* in the arena */
    SP_RESERVATION_REVOKED = 2, /* in private memory */
    SP_RESERVATION_LOST = 3     /* revoked, and there was no private memory to go on in */
};

typedef struct sp_writer sp_writer;

typedef struct sp_reservation {
    sp_writer *writer;
    uint8_t *bytes;    /* where the payload begins; changes when it is revoked */
    uint64_t position; /* in the arena, while it is there */
    uint32_t capacity;
    uint32_t length; /* received so far */
    uint32_t crc32c; /* of what was received so far */
    int32_t state;   /* enum sp_reservation_state */
    uint32_t index;  /* in the writer's table */
} sp_reservation;

struct sp_writer {
    sp_header *header;
    sp_descriptor *slots;
    uint8_t *arena;
    uint32_t *wake_flag; /* in the mapped .wake object; NULL: nobody can sleep on us */
    uint64_t mapped_bytes;
    uint64_t slot_mask;
    uint64_t arena_bytes;
    uint64_t next;           /* sequence of the next frame */
    uint64_t allocated;      /* arena position of the next allocation */
    uint64_t intent;         /* what tail_intent says; never below `allocated`, never back */
    uint64_t intent_step;    /* it goes up to multiples of this */
    uint64_t reserved_bytes; /* of open reservations in the arena */
    uint64_t revocations;
    uint32_t reservation_count;
    sp_reservation *reservations[SP_RESERVATIONS_MAX];
    char detail[SP_DETAIL_BYTES];
};

/* sp_segment_bytes: bytes of a segment with these sizes, whole pages. */
uint64_t sp_segment_bytes(uint64_t slot_count, uint64_t arena_bytes);

/* sp_map_shared maps `bytes` of fd for reading and, if writable, writing, and touches every page
 * now rather than at the first frame. Returns NULL with errno set on failure. */
void *sp_map_shared(int fd, uint64_t bytes, int writable);
void sp_unmap(void *base, uint64_t bytes);

/* sp_writer_format makes `base` (zeroed, mapped_bytes long, ours alone) a fresh ring, epoch 1, and
 * opens the writer on it. session is random and not 0. The magic is stored last. Returns SP_OK, or
 * SP_E_ARGUMENT with writer->detail when a size or a name is out of its bound. */
int sp_writer_format(sp_writer *writer, void *base, uint64_t mapped_bytes, uint64_t slot_count,
                     uint64_t arena_bytes, const char *instance, const char *network,
                     const char *name, uint64_t session);

/* sp_writer_takeover opens the writer on a segment whose writer died. The caller holds the write
 * lock. Checks magic, version, sizes, every slot and its frame's place, and the newest frame's CRC;
 * raises the epoch and goes on at the next number. Returns SP_OK, or a negative code with
 * writer->detail: the segment was not touched and does not fit. */
int sp_writer_takeover(sp_writer *writer, void *base, uint64_t mapped_bytes);

/* sp_writer_set_wake gives the writer the mapped .wake object (SP_WAKE_BYTES, NULL: none) and the
 * offset of its flag; readers learn inode and offset from the header. */
void sp_writer_set_wake(sp_writer *writer, void *wake, uint64_t inode, uint32_t offset);

/* sp_wake_map maps the .wake object on fd for the writer and guards the page: should a reader
 * truncate the object, the writer gets zeros instead of SIGBUS. NULL with errno set on failure. */
void *sp_wake_map(int fd);
void sp_wake_unmap(void *wake);

/* sp_wake_format makes a zeroed .wake page one; sp_wake_intact says whether it still is: 0 once a
 * reader truncated it or wrote elsewhere than in its flag. The writer then makes a new object. */
void sp_wake_format(void *wake);
int sp_wake_intact(const void *wake);

/* sp_writer_publish publishes one frame whose payload is the parts in their order. Returns its
 * sequence, or SP_E_LIMIT when the payload is longer than half the arena. Readers asleep are woken.
 * */
int64_t sp_writer_publish(sp_writer *writer, const sp_meta *meta, const sp_part *parts,
                          uint64_t part_count);

/* The same for one part and without structures: the quick way from Python. */
int64_t sp_writer_publish_one(sp_writer *writer, uint32_t kind, uint32_t chain, uint32_t level,
                              uint32_t flags, int32_t height, uint32_t source, const uint8_t *hash,
                              uint64_t origin_ns, uint64_t first_byte_ns, uint64_t last_byte_ns,
                              const uint8_t *bytes, uint64_t length);

/* sp_meta_fill writes all of meta; hash has 32 bytes. */
void sp_meta_fill(sp_meta *meta, uint32_t kind, uint32_t chain, uint32_t level, uint32_t flags,
                  int32_t height, uint32_t source, const uint8_t *hash, uint64_t origin_ns,
                  uint64_t first_byte_ns, uint64_t last_byte_ns);

/* sp_writer_reserve opens a reservation of capacity bytes to receive into. It lies in the arena,
 * or, when open reservations would exceed a quarter of it, in private memory from the start.
 * Returns SP_OK; SP_E_LIMIT when the capacity exceeds half the arena or too many are open;
 * SP_E_MEMORY. The reservation's address must stay put until it is committed or abandoned. */
int sp_writer_reserve(sp_writer *writer, uint64_t capacity, sp_reservation *reservation);

/* sp_reservation_advance takes `count` bytes, written at bytes + length, as received; the CRC
 * grows with them. SP_E_ARGUMENT past the capacity, SP_E_MEMORY when the reservation was lost. */
int sp_reservation_advance(sp_reservation *reservation, uint64_t count);

/* sp_reservation_commit publishes what was received; costs the same for any length unless the
 * reservation was revoked, then its bytes are copied. Returns the sequence or a negative code
 * (SP_E_ARGUMENT: already done; SP_E_MEMORY: lost). The reservation is done either way. */
int64_t sp_reservation_commit(sp_reservation *reservation, const sp_meta *meta);

/* sp_reservation_abandon gives the reservation up. Nothing was published; safe when already done.
 * */
void sp_reservation_abandon(sp_reservation *reservation);

/* sp_writer_drop abandons what is still reserved; the writer must not be used afterwards. */
void sp_writer_drop(sp_writer *writer);

/* sp_writer_set_source names entry `index` of the source table (UTF-8; cut at a character border to
 * SP_SOURCE_NAME_BYTES - 1 bytes by the caller). SP_OK or SP_E_ARGUMENT. */
int sp_writer_set_source(sp_writer *writer, uint32_t index, const char *name);

void sp_writer_heartbeat(sp_writer *writer);

/* sp_segment_close tells readers that nothing more comes in this segment and wakes them. */
void sp_segment_close(sp_header *header);

/* sp_stamp_ns: CLOCK_MONOTONIC, at least 1 above every stamp this process handed out before and
 * above `floor`. For the one thread that publishes. */
uint64_t sp_stamp_ns(uint64_t floor);

#endif /* SPRINT_RING_H */
