/* sprint.h: read Bitcoin Sprint's rings in shared memory from C11 or C++17. Header-only, no dependency.
 *
 * The layout below is the ring's binary contract, layout version 1; docs/ring.md is its
 * specification. All integers are little-endian; hashes are in internal byte order. */
#ifndef SPRINT_H
#define SPRINT_H

#include <stddef.h>
#include <stdint.h>

#define SP_RING_MAGIC UINT64_C(0x474e495254525053) /* "SPRTRING" in memory order */
#define SP_LAYOUT_VERSION 1u

#define SP_HEADER_BYTES 4096u  /* first page; the source table follows as the second page */
#define SP_SOURCES_MAX 64u     /* entries of the source table */
#define SP_SOURCE_NAME_BYTES 64u
#define SP_SLOT_BYTES 128u

enum sp_state { SP_STATE_INIT = 0, SP_STATE_LIVE = 1, SP_STATE_CLOSED = 2 };

enum sp_kind {
    SP_KIND_HEADER = 1,
    SP_KIND_BLOCK = 2,
    SP_KIND_TIP = 3,
    SP_KIND_RETRACT = 4,
    SP_KIND_TX = 16,
    SP_KIND_MEMPOOL = 17,
    SP_KIND_HEARTBEAT = 32,
    SP_KIND_STATUS = 33
};

enum sp_level {
    SP_LEVEL_UNVERIFIED = 0,
    SP_LEVEL_POW = 1,
    SP_LEVEL_MERKLE = 2,
    SP_LEVEL_CONNECTED = 3
};

enum sp_flag { SP_FLAG_UNANCHORED = 1, SP_FLAG_LATE = 2 };

enum sp_chain { SP_CHAIN_BITCOIN = 1, SP_CHAIN_LITECOIN = 2 };

/* A frame's descriptor: one slot of the ring, 128 bytes, two cache lines of 64.
 * seq is the frame's sequence number (first frame: 1) once whole, seq - 1 while it is written. */
typedef struct sp_descriptor {
    uint64_t seq;
    uint64_t position;      /* absolute arena position of the payload's first byte */
    uint32_t length;        /* payload bytes */
    uint32_t crc32c;        /* CRC32C (RFC 3720) of the payload */
    uint8_t kind;           /* enum sp_kind */
    uint8_t chain;          /* enum sp_chain */
    uint8_t level;          /* enum sp_level */
    uint8_t reserved0;
    uint32_t flags;         /* enum sp_flag */
    int32_t height;         /* -1: not known */
    uint16_t source;        /* index into the source table */
    uint16_t reserved1;
    uint8_t hash[32];       /* block hash or txid, internal byte order */
    uint64_t publish_ns;    /* CLOCK_REALTIME */
    uint64_t origin_ns;     /* CLOCK_REALTIME, 0: not known; when the sender says it was made */
    uint64_t first_byte_ns; /* CLOCK_REALTIME, 0: not known */
    uint64_t last_byte_ns;  /* CLOCK_REALTIME, 0: not known */
    uint64_t stamp_ns;      /* CLOCK_MONOTONIC at publish, made strictly increasing over all rings
                               of one writer process: merges the rings in publish order */
    uint64_t reserved2;
} sp_descriptor;

#endif /* SPRINT_H */
