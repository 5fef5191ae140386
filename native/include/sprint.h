/* sprint.h: read Bitcoin Sprint's rings in shared memory from C11 or C++17.
 *
 * Header-only, no dependency but Linux and a compiler with __atomic builtins (GCC, Clang). Include
 * it before any system header, or compile with -D_GNU_SOURCE. docs/ring.md is the specification.
 *
 * Design. One writer broadcasts frames to any number of readers and waits for none. A frame is a
 * descriptor in a slot (slot = sequence mod slot count) and a payload in an arena that is
 * overwritten round and round. Readers map everything read-only and detect by themselves that they
 * were overtaken: in the slots (the slot's `seq` moved on) or in the arena (`tail_intent` passed).
 *
 * Invariants that readers rely on:
 *   - slot.seq is s once frame s is whole, s - 1 while it is written; so for a reader that expects
 *     s: equal is ready, behind is not yet, ahead is overrun.
 *   - arena positions are absolute and 64 bits wide; offset = position mod arena_bytes. The arena
 *     holds [tail_intent - arena_bytes, tail_intent); tail_intent never goes back and is raised
 *     before the first byte of what it covers is written. A payload never wraps.
 *   - frames never change once written.
 *
 * Failure modes: every reader outcome is a return code; nothing from the segment is used as a
 * length or an offset before it was checked against what is mapped. A writer's death leaves the
 * segment as it was; a successor raises `epoch` and goes on at the next number. A segment that was
 * given up says SP_STATE_CLOSED.
 *
 * All integers are little-endian; hashes are in internal byte order. Layout version 1. */
#ifndef SPRINT_H
#define SPRINT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the ring's layout is little-endian and is read in place"
#endif

/* ------------------------------------------------------------------------------------ layout -- */

#define SP_RING_MAGIC UINT64_C(0x474e495254525053) /* "SPRTRING" in memory order */
#define SP_WAKE_MAGIC UINT64_C(0x454b415754525053) /* "SPRTWAKE" in memory order */
#define SP_LAYOUT_VERSION 1u

#define SP_HEADER_BYTES 4096u    /* first page of a segment */
#define SP_SOURCES_OFFSET 4096u  /* second page: the source table */
#define SP_SLOTS_OFFSET 8192u    /* third page on: the slots; the arena follows, page-aligned */
#define SP_SOURCES_MAX 64u       /* entries of the source table */
#define SP_SOURCE_NAME_BYTES 60u /* UTF-8 and at least one zero */
#define SP_SLOT_BYTES 128u
#define SP_SLOT_COUNT_MIN UINT64_C(4)
#define SP_SLOT_COUNT_MAX (UINT64_C(1) << 24)
#define SP_ARENA_BYTES_MIN UINT64_C(4096)
#define SP_ARENA_BYTES_MAX (UINT64_C(1) << 32)
#define SP_PAYLOAD_ALIGN UINT64_C(64) /* every payload starts on a line of its own */
#define SP_PAGE_BYTES UINT64_C(4096)
#define SP_WAKE_BYTES 4096u     /* the .wake object */
#define SP_WAKE_FLAG_OFFSET 128u /* flag of wake index 0; each index has a 128-byte line */
#define SP_WAKE_COUNT_MAX 16u

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
    uint64_t reserved2[2];
} sp_descriptor;

/* The header page. The first 64 bytes never change layout, whatever the version. Words that the
 * writer stores while it publishes have 128-byte lines of their own. */
typedef struct sp_header {
    uint64_t magic; /* SP_RING_MAGIC, stored last by the creator (release) */
    uint32_t layout_version;
    uint32_t state; /* enum sp_state */
    uint64_t epoch; /* 1 at creation, plus one with every takeover */
    uint64_t session; /* random, never 0; new with every fresh segment */
    uint64_t segment_bytes;
    uint64_t created_ns; /* CLOCK_REALTIME */
    uint64_t preamble_reserved[2];

    uint64_t slot_count; /* a power of two */
    uint64_t slots_offset;
    uint64_t arena_offset;
    uint64_t arena_bytes; /* a multiple of SP_PAGE_BYTES */
    uint32_t slot_bytes;
    uint32_t sources_max;
    uint32_t wake_offset; /* of this ring's flag in the .wake object */
    uint32_t sizes_reserved;
    uint64_t wake_inode; /* inode of the .wake object that the writer looks at; 0: none */
    uint64_t sizes_reserved2;

    char instance[64]; /* zero-terminated, as are the next two */
    char network[32];
    char name[32];

    uint32_t writer_pid; /* for people and tools; liveness is the lock's word alone */
    uint32_t writer_reserved;
    uint64_t writer_start_ticks; /* field 22 of /proc/<pid>/stat: tells a reused pid apart */
    uint64_t takeover_ns;        /* CLOCK_REALTIME when this epoch began */
    uint64_t cold_reserved[29];

    uint64_t tail_intent; /* arena positions below tail_intent - arena_bytes are gone */
    uint64_t tail_line[15];
    uint64_t head_hint; /* newest sequence or one behind it; its low word is the futex */
    uint64_t head_line[15];
    uint64_t heartbeat_ns; /* CLOCK_MONOTONIC; a sign of life for people, never decides anything */
    uint64_t heartbeat_line[15];
    uint64_t reserved[400];
} sp_header;

/* One entry of the source table: version is odd while the name is being written. */
typedef struct sp_source {
    uint32_t version;
    char name[SP_SOURCE_NAME_BYTES];
} sp_source;

#ifdef __cplusplus
#define SP_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define SP_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

SP_STATIC_ASSERT(sizeof(sp_descriptor) == SP_SLOT_BYTES, "descriptor is 128 bytes");
SP_STATIC_ASSERT(offsetof(sp_descriptor, kind) == 24, "ABI: kind");
SP_STATIC_ASSERT(offsetof(sp_descriptor, hash) == 40, "ABI: hash");
SP_STATIC_ASSERT(offsetof(sp_descriptor, publish_ns) == 72, "ABI: publish_ns");
SP_STATIC_ASSERT(offsetof(sp_descriptor, stamp_ns) == 104, "ABI: stamp_ns");
SP_STATIC_ASSERT(sizeof(sp_header) == SP_HEADER_BYTES, "header is one page");
SP_STATIC_ASSERT(offsetof(sp_header, slot_count) == 64, "ABI: the preamble is 64 bytes");
SP_STATIC_ASSERT(offsetof(sp_header, instance) == 128, "ABI: instance");
SP_STATIC_ASSERT(offsetof(sp_header, writer_pid) == 256, "ABI: writer_pid");
SP_STATIC_ASSERT(offsetof(sp_header, tail_intent) == 512, "ABI: tail_intent");
SP_STATIC_ASSERT(offsetof(sp_header, head_hint) == 640, "ABI: head_hint");
SP_STATIC_ASSERT(offsetof(sp_header, heartbeat_ns) == 768, "ABI: heartbeat_ns");
SP_STATIC_ASSERT(sizeof(sp_source) == 64, "a source entry is 64 bytes");

/* ----------------------------------------------------------------------------------- atomics -- */

/* Every access to shared memory goes through these, so that a checker can put its own in the place
 * of any of them (-DSP_ATOMICS_HEADER='"file.h"') and make each access a step of its schedule. */
#ifdef SP_ATOMICS_HEADER
#include SP_ATOMICS_HEADER
#endif
#ifndef SP_LOAD_RELAXED
#define SP_LOAD_RELAXED(address) __atomic_load_n((address), __ATOMIC_RELAXED)
#endif
#ifndef SP_LOAD_ACQUIRE
#define SP_LOAD_ACQUIRE(address) __atomic_load_n((address), __ATOMIC_ACQUIRE)
#endif
#ifndef SP_STORE_RELAXED
#define SP_STORE_RELAXED(address, value) __atomic_store_n((address), (value), __ATOMIC_RELAXED)
#endif
#ifndef SP_STORE_RELEASE
#define SP_STORE_RELEASE(address, value) __atomic_store_n((address), (value), __ATOMIC_RELEASE)
#endif
#ifndef SP_EXCHANGE
#define SP_EXCHANGE(address, value) __atomic_exchange_n((address), (value), __ATOMIC_SEQ_CST)
#endif
#ifndef SP_FENCE_ACQUIRE
#define SP_FENCE_ACQUIRE() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#endif
#ifndef SP_FENCE_RELEASE
#define SP_FENCE_RELEASE() __atomic_thread_fence(__ATOMIC_RELEASE)
#endif
#ifndef SP_FENCE_SEQ_CST
#define SP_FENCE_SEQ_CST() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
/* Orders non-temporal stores, which a big memcpy may use and release does not order, with others. */
#ifndef SP_FENCE_STORES
#if defined(__x86_64__) || defined(__i386__)
#define SP_FENCE_STORES() __asm__ __volatile__("sfence" ::: "memory")
#else
#define SP_FENCE_STORES() __atomic_thread_fence(__ATOMIC_RELEASE)
#endif
#endif
/* Payload into and out of the arena. */
#ifndef SP_PAYLOAD_COPY
#ifdef SP_TSAN
#define SP_PAYLOAD_COPY(to, from, length) sp_copy_words((to), (from), (length))
#else
#define SP_PAYLOAD_COPY(to, from, length) ((void)memcpy((to), (from), (length)))
#endif
#endif
/* Raise a sleeper's flag. By pwrite, not through a mapping: no reader can then be killed by
 * another that truncates the object. Returns 0, or -1 when it could not be raised. */
#ifndef SP_RAISE_FLAG
#define SP_RAISE_FLAG(fd, offset) sp_raise_flag((fd), (offset))
#endif
#ifndef SP_FUTEX_WAIT
#define SP_FUTEX_WAIT(word, expected, timeout_ns) sp_futex_wait((word), (expected), (timeout_ns))
#endif
#ifndef SP_FUTEX_WAKE_ALL
#define SP_FUTEX_WAKE_ALL(word) \
    ((void)syscall(SYS_futex, (word), FUTEX_WAKE, INT_MAX, NULL, NULL, 0))
#endif

#if defined(__x86_64__) || defined(__i386__)
#define SP_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define SP_PAUSE() __asm__ __volatile__("isb" ::: "memory")
#else
#define SP_PAUSE() ((void)0)
#endif

/* sp_copy_words copies by relaxed atomic accesses (8 bytes where both ends allow it, else bytes):
 * the payload copy of ThreadSanitizer builds, where a torn copy that is discarded is no race. */
static inline void sp_copy_words(void *to, const void *from, size_t length)
{
    uint8_t *out = (uint8_t *)to;
    const uint8_t *in = (const uint8_t *)from;
    size_t at = 0;
    if ((((uintptr_t)out | (uintptr_t)in) & 7u) == 0) {
        for (; at + 8 <= length; at += 8) {
            uint64_t word = __atomic_load_n((const uint64_t *)(const void *)(in + at),
                                            __ATOMIC_RELAXED);
            __atomic_store_n((uint64_t *)(void *)(out + at), word, __ATOMIC_RELAXED);
        }
    }
    for (; at < length; at++)
        __atomic_store_n(out + at, __atomic_load_n(in + at, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

static inline int sp_raise_flag(int fd, uint32_t offset)
{
    const uint32_t up = 1;
    return pwrite(fd, &up, sizeof up, (off_t)offset) == (ssize_t)sizeof up ? 0 : -1;
}

/* sp_futex_wait sleeps while *word is expected, at most timeout_ns. Returns 0 or an errno. Shared
 * (not private) futex: it works on a read-only mapping. */
static inline int sp_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    struct timespec span;
    span.tv_sec = (time_t)(timeout_ns / 1000000000);
    span.tv_nsec = (long)(timeout_ns % 1000000000);
    return syscall(SYS_futex, word, FUTEX_WAIT, expected, &span, NULL, 0) == 0 ? 0 : errno;
}

/* ------------------------------------------------------------------------------------ attach -- */

enum sp_code {
    SP_FRAME = 1,       /* a frame was delivered */
    SP_OK = 0,          /* done; or nothing yet */
    SP_E_NOT_FOUND = -1,  /* no such ring */
    SP_E_NOT_READY = -2,  /* it is being created */
    SP_E_PERMISSION = -3, /* the host refuses access */
    SP_E_CORRUPT = -4,    /* contradicts the specification; `detail` names what */
    SP_E_VERSION = -5,    /* another layout version */
    SP_E_CLOSED = -6,     /* the writer gave this segment up, everything in it was read */
    SP_E_MEMORY = -7,     /* the host refuses memory or a descriptor */
    SP_E_ARGUMENT = -8,   /* the caller's argument is out of its bound */
    SP_E_OVERWRITTEN = -9, /* the payload was overwritten */
    SP_E_LIMIT = -10,     /* a fixed bound was reached */
    SP_E_SYSTEM = -11     /* another system error; errno tells */
};

enum sp_resume { SP_RESUME_OLDEST = 0, SP_RESUME_NEWEST = 1 };

enum sp_wait_mode { SP_WAIT_SPIN = 0, SP_WAIT_SPIN_THEN_YIELD = 1, SP_WAIT_BLOCK = 2 };

#define SP_DETAIL_BYTES 160u
#define SP_RESUME_TRIES_MAX 16     /* overruns that one poll resumes from before it gives way */
#define SP_LOOKS_AT_ONCE 64u       /* between two looks at the clock; divides the next three */
#define SP_LOOKS_BEFORE_YIELD 2048u /* of spin_then_yield */
#define SP_LOOKS_BEFORE_SLEEP 128u  /* of block */
#define SP_LOOKS_BEFORE_DOUBT 65536u /* of spin and spin_then_yield: is there a writer at all? */
#ifndef SP_SLEEP_NS_MAX
#define SP_SLEEP_NS_MAX INT64_C(250000000) /* longest sleep before state and .wake are looked at */
#endif
#define SP_SLEEP_NS_UNWAKED INT64_C(1000000) /* the same where .wake is not writable */

/* An attached ring: a read-only mapping. Fields are the library's; use the functions. One thread
 * at a time, or as many readers in as many threads as wanted, each with its own sp_reader. */
typedef struct sp_ring {
    const sp_header *header;
    const sp_descriptor *slots;
    const uint8_t *arena;
    uint64_t mapped_bytes;
    uint64_t slot_mask;
    uint64_t arena_bytes;
    uint64_t session;
    int fd;
    int orphaned; /* 1 once sp_orphaned found it so; for good */
    char instance[64];
    char detail[SP_DETAIL_BYTES]; /* says what was wrong after a negative code of sp_attach */
} sp_ring;

typedef struct sp_reader {
    sp_ring *ring;
    uint64_t next; /* sequence that is delivered next */
    uint64_t frames_lost;
    uint64_t slot_laps;  /* overruns found in the slots */
    uint64_t arena_laps; /* overruns found in the arena */
    uint64_t wake_inode; /* of the .wake object that wake_fd is open on */
    int wake_fd;         /* -1: not open, or not writable */
    int resume;          /* enum sp_resume */
    int wait_mode;       /* enum sp_wait_mode */
    int reserved;
    char detail[SP_DETAIL_BYTES];
} sp_reader;

/* A delivered frame: a private copy of its descriptor; the payload stays in the arena and may be
 * overwritten at any time: use it, then ask sp_frame_valid, and only then believe it. */
typedef struct sp_frame {
    sp_descriptor descriptor;
    const uint8_t *payload;
} sp_frame;

/* sp_refuse writes what was wrong into detail (SP_DETAIL_BYTES) and returns code. */
__attribute__((format(printf, 3, 4))) static inline int sp_refuse(int code, char *detail,
                                                                  const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(detail, SP_DETAIL_BYTES, format, values);
    va_end(values);
    return code;
}

static inline uint64_t sp_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static inline uint64_t sp_round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* sp_check_header says whether a mapped header of a file of file_bytes can be trusted to be read:
 * SP_OK, or a negative code with `detail` (SP_DETAIL_BYTES) naming what is wrong and the value
 * found. The caller has mapped at least SP_HEADER_BYTES. */
static inline int sp_check_header(const sp_header *header, uint64_t file_bytes, char *detail)
{
    /* SYNC: pairs with the release store of magic in sp_writer_format. */
    uint64_t magic = SP_LOAD_ACQUIRE(&header->magic);
    if (magic == 0)
        return sp_refuse(SP_E_NOT_READY, detail, "it is being created");
    if (magic != SP_RING_MAGIC)
        return sp_refuse(SP_E_CORRUPT, detail, "magic is %016llx, not a ring's",
                        (unsigned long long)magic);
    if (header->layout_version != SP_LAYOUT_VERSION)
        return sp_refuse(SP_E_VERSION, detail, "layout version is %u, this program reads %u",
                        header->layout_version, SP_LAYOUT_VERSION);
    uint64_t slots = header->slot_count, arena = header->arena_bytes;
    if (slots < SP_SLOT_COUNT_MIN || slots > SP_SLOT_COUNT_MAX || (slots & (slots - 1)) != 0)
        return sp_refuse(SP_E_CORRUPT, detail, "slot count is %llu, not a power of two in bounds",
                        (unsigned long long)slots);
    if (arena < SP_ARENA_BYTES_MIN || arena > SP_ARENA_BYTES_MAX || arena % SP_PAGE_BYTES != 0)
        return sp_refuse(SP_E_CORRUPT, detail, "arena size is %llu, not whole pages in bounds",
                        (unsigned long long)arena);
    if (header->slot_bytes != SP_SLOT_BYTES || header->slots_offset != SP_SLOTS_OFFSET ||
        header->arena_offset != sp_round_up(SP_SLOTS_OFFSET + slots * SP_SLOT_BYTES, SP_PAGE_BYTES))
        return sp_refuse(SP_E_CORRUPT, detail, "slots at %llu of %u bytes, arena at %llu",
                        (unsigned long long)header->slots_offset, header->slot_bytes,
                        (unsigned long long)header->arena_offset);
    if (header->segment_bytes < header->arena_offset + arena || header->segment_bytes > file_bytes)
        return sp_refuse(SP_E_CORRUPT, detail, "segment of %llu bytes in a file of %llu",
                        (unsigned long long)header->segment_bytes,
                        (unsigned long long)file_bytes);
    if (header->session == 0)
        return sp_refuse(SP_E_CORRUPT, detail, "session is 0");
    if (header->wake_offset > SP_WAKE_BYTES - sizeof(uint32_t))
        return sp_refuse(SP_E_CORRUPT, detail, "wake offset is %u", header->wake_offset);
    return SP_OK;
}

/* sp_map_ring maps the segment open on fd read-only and fills ring. On success the ring owns fd;
 * on a negative code the caller still does, and ring->detail tells. */
static inline int sp_map_ring(sp_ring *ring, int fd)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return sp_refuse(SP_E_SYSTEM, ring->detail, "fstat: %s", strerror(errno));
    if (!S_ISREG(status.st_mode))
        return sp_refuse(SP_E_CORRUPT, ring->detail, "not a regular file");
    uint64_t file_bytes = (uint64_t)status.st_size;
    if (file_bytes == 0)
        return sp_refuse(SP_E_NOT_READY, ring->detail, "it is being created");
    if (file_bytes < SP_SLOTS_OFFSET)
        return sp_refuse(SP_E_CORRUPT, ring->detail, "truncated to %llu bytes",
                        (unsigned long long)file_bytes);
    /* Where memory is short, touching a page that the file does not have yet ends in SIGBUS. */
    if ((uint64_t)status.st_blocks * 512 < file_bytes)
        return sp_refuse(SP_E_NOT_READY, ring->detail,
                         "it is being created, its memory is not all there");
    /* Populated now, so that no frame costs a page fault on the ring's first lap. */
    void *base = mmap(NULL, (size_t)file_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED)
        return sp_refuse(SP_E_MEMORY, ring->detail, "mmap: %s", strerror(errno));
    const sp_header *header = (const sp_header *)base;
    int code = sp_check_header(header, file_bytes, ring->detail);
    if (code != SP_OK) {
        munmap(base, (size_t)file_bytes);
        return code;
    }
    ring->header = header;
    const uint8_t *bytes = (const uint8_t *)base;
    ring->slots = (const sp_descriptor *)(const void *)(bytes + header->slots_offset);
    ring->arena = bytes + header->arena_offset;
    ring->mapped_bytes = file_bytes;
    ring->slot_mask = header->slot_count - 1;
    ring->arena_bytes = header->arena_bytes;
    ring->session = header->session;
    ring->fd = fd;
    return SP_OK;
}

/* sp_attach opens ring `name` ("blocks", "tx") of `instance` for reading. directory is where the
 * segments live: NULL for POSIX shared memory, else the configured hugetlbfs directory. Returns
 * SP_OK or a negative code, ring->detail then names what. The ring must stay in place while readers
 * use it; release it with sp_detach. */
static inline int sp_attach(sp_ring *ring, const char *directory, const char *instance,
                            const char *name)
{
    char path[256];
    memset(ring, 0, sizeof *ring);
    ring->fd = -1;
    if (directory == NULL)
        directory = "/dev/shm";
    int wanted = snprintf(path, sizeof path, "%s/sprint.%s.%s", directory, instance, name);
    if (wanted < 0 || (size_t)wanted >= sizeof path || strchr(instance, '/') || strchr(name, '/') ||
        strlen(instance) >= sizeof ring->instance)
        return sp_refuse(SP_E_ARGUMENT, ring->detail, "bad ring name");
    memcpy(ring->instance, instance, strlen(instance) + 1);
    /* Without waiting: anybody may have left a pipe under this name. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        int cause = errno;
        snprintf(ring->detail, SP_DETAIL_BYTES, "open: %s", strerror(cause));
        return cause == ENOENT ? SP_E_NOT_FOUND
               : cause == EACCES || cause == EPERM ? SP_E_PERMISSION : SP_E_SYSTEM;
    }
    int code = sp_map_ring(ring, fd);
    if (code != SP_OK)
        close(fd);
    return code;
}

/* sp_detach releases the mapping. No reader of the ring, and no payload, may be used after it. */
static inline void sp_detach(sp_ring *ring)
{
    if (ring->header != NULL)
        munmap((void *)(uintptr_t)ring->header, (size_t)ring->mapped_bytes);
    if (ring->fd >= 0)
        close(ring->fd);
    ring->header = NULL;
    ring->fd = -1;
}

/* sp_writer_alive: 1 when a living process holds the write lock, 0 when none does, -1 on a system
 * error. A query only: the lock is never taken. */
static inline int sp_writer_alive(const sp_ring *ring)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif
    if (fcntl(ring->fd, F_OFD_GETLK, &lock) != 0)
        return -1;
    return lock.l_type == F_WRLCK;
}

static inline uint64_t sp_ring_epoch(const sp_ring *ring)
{
    return SP_LOAD_ACQUIRE(&ring->header->epoch); /* SYNC: pairs with sp_writer_takeover's store */
}

static inline uint32_t sp_ring_state(const sp_ring *ring)
{
    return SP_LOAD_ACQUIRE(&ring->header->state); /* SYNC: pairs with sp_segment_close's store */
}

/* sp_orphaned: the segment's name is gone and no writer holds it: nothing can ever come. Asks the
 * kernel, so not to be called for every look. */
static inline int sp_orphaned(sp_ring *ring)
{
    struct stat status;
    if (SP_LOAD_RELAXED(&ring->orphaned) == 0 && fstat(ring->fd, &status) == 0 &&
        status.st_nlink == 0 && sp_writer_alive(ring) == 0)
        SP_STORE_RELAXED(&ring->orphaned, 1); /* own memory, which another thread may look at */
    return SP_LOAD_RELAXED(&ring->orphaned);
}

/* sp_ended: nothing more will come in this segment: it was closed, or sp_orphaned found it so. */
static inline int sp_ended(const sp_ring *ring)
{
    return sp_ring_state(ring) == SP_STATE_CLOSED || SP_LOAD_RELAXED(&ring->orphaned) != 0;
}

/* sp_source_name copies the name of source `index` into name (SP_SOURCE_NAME_BYTES, terminated).
 * Returns 1 with a name, 0 with none (unset, or being written just now), negative on a bad index.
 * */
static inline int sp_source_name(const sp_ring *ring, uint32_t index, char *name)
{
    if (index >= SP_SOURCES_MAX)
        return SP_E_ARGUMENT;
    const uint8_t *table = (const uint8_t *)ring->header + SP_SOURCES_OFFSET;
    const sp_source *entry = (const sp_source *)(const void *)table + index;
    for (int tries = 0; tries < 1000; tries++) {
        /* SYNC: pairs with the release store of version in sp_writer_set_source. */
        uint32_t before = SP_LOAD_ACQUIRE(&entry->version);
        for (size_t at = 0; at < SP_SOURCE_NAME_BYTES; at++)
            name[at] = SP_LOAD_RELAXED(&entry->name[at]);
        SP_FENCE_ACQUIRE(); /* SYNC: pairs with the release fence after the odd version */
        if ((before & 1u) == 0 && SP_LOAD_RELAXED(&entry->version) == before) {
            name[SP_SOURCE_NAME_BYTES - 1] = 0;
            return name[0] != 0;
        }
    }
    name[0] = 0;
    return 0;
}

/* ----------------------------------------------------------------------------------- looking -- */

static inline const sp_descriptor *sp_slot(const sp_ring *ring, uint64_t sequence)
{
    return &ring->slots[sequence & ring->slot_mask];
}

/* sp_intact: may bytes at `position` still be believed? The caller has read them already. */
static inline int sp_intact(const sp_ring *ring, uint64_t position)
{
    /* SYNC: pairs with the release fence after the tail_intent store in the writer's
     * sp_raise_intent: whoever saw a byte of a later lap sees the intent that announced it. */
    SP_FENCE_ACQUIRE();
    return SP_LOAD_RELAXED(&ring->header->tail_intent) - position <= ring->arena_bytes;
}

/* sp_frame_valid: 1 while the frame's payload is whole, 0 once it may be overwritten. Whatever was
 * read from the payload before the call is good when it returns 1. */
static inline int sp_frame_valid(const sp_ring *ring, const sp_frame *frame)
{
    return sp_intact(ring, frame->descriptor.position);
}

/* sp_frame_copy copies the payload to `to`, which holds frame->descriptor.length bytes. Returns
 * SP_OK, or SP_E_OVERWRITTEN: the copy is then worthless. */
static inline int sp_frame_copy(const sp_ring *ring, const sp_frame *frame, void *to)
{
    SP_PAYLOAD_COPY(to, frame->payload, frame->descriptor.length);
    return sp_frame_valid(ring, frame) ? SP_OK : SP_E_OVERWRITTEN;
}

/* sp_head: sequence of the newest whole frame, 0 before the first. */
static inline uint64_t sp_head(const sp_ring *ring)
{
    /* SYNC: pairs with the release store of head_hint in sp_announce. The hint may be one behind.
     * */
    uint64_t head = SP_LOAD_ACQUIRE(&ring->header->head_hint);
    /* SYNC: pairs with the release store of slot.seq in sp_write_slot. */
    if (SP_LOAD_ACQUIRE(&sp_slot(ring, head + 1)->seq) == head + 1)
        head++;
    return head;
}

/* sp_whole: is frame `sequence` still in its slot and its payload still in the arena? */
static inline int sp_whole(const sp_ring *ring, uint64_t sequence)
{
    const sp_descriptor *slot = sp_slot(ring, sequence);
    /* SYNC: pairs with the release store of slot.seq in sp_write_slot. */
    if (SP_LOAD_ACQUIRE(&slot->seq) != sequence)
        return 0;
    uint64_t position = SP_LOAD_RELAXED(&slot->position);
    SP_FENCE_ACQUIRE(); /* SYNC: pairs with the release fence after the busy mark */
    return SP_LOAD_RELAXED(&slot->seq) == sequence && sp_intact(ring, position);
}

/* sp_oldest: the first whole frame with a sequence of at least `from`, else the newest sequence
 * plus one. Reservations are committed in another order than they lie in the arena, so what is
 * whole is not one run, and this scans. */
static inline uint64_t sp_oldest(const sp_ring *ring, uint64_t from)
{
    uint64_t head = sp_head(ring);
    uint64_t slot_count = ring->slot_mask + 1;
    uint64_t first = head >= slot_count ? head - slot_count + 1 : 1;
    for (uint64_t sequence = from > first ? from : first; sequence <= head; sequence++)
        if (sp_whole(ring, sequence))
            return sequence;
    return from > head + 1 ? from : head + 1;
}

/* ----------------------------------------------------------------------------------- reading -- */

/* sp_reader_init: a reader of `ring` whose first frame is `next` (sp_head(ring) + 1 for what is
 * published from now on, sp_oldest(ring, 1) for all that is there). Release with sp_reader_close.
 * */
static inline void sp_reader_init(sp_reader *reader, sp_ring *ring, uint64_t next, int resume,
                                  int wait_mode)
{
    memset(reader, 0, sizeof *reader);
    reader->ring = ring;
    reader->next = next;
    reader->resume = resume;
    reader->wait_mode = wait_mode;
    reader->wake_fd = -1;
}

static inline void sp_reader_close(sp_reader *reader)
{
    if (reader->wake_fd >= 0)
        close(reader->wake_fd);
    reader->wake_fd = -1;
}

/* sp_resume_reader moves an overrun reader on, by its own choice. */
static inline int sp_resume_reader(sp_reader *reader)
{
    /* SYNC: pairs with the seq_cst fence in sp_announce: whoever saw what a later frame did to a
     * slot or to the intent sees the hints of the frames before it. */
    SP_FENCE_ACQUIRE();
    uint64_t head = sp_head(reader->ring);
    if ((int64_t)(head - reader->next) < 0)
        return sp_refuse(SP_E_CORRUPT, reader->detail,
                         "slot of frame %llu is ahead, but the newest frame is %llu",
                         (unsigned long long)reader->next, (unsigned long long)head);
    uint64_t next = reader->next + 1;
    if (reader->resume == SP_RESUME_OLDEST)
        next = sp_oldest(reader->ring, next);
    else if (head > next)
        next = head;
    reader->frames_lost += next - reader->next;
    reader->next = next;
    return SP_OK;
}

/* sp_accept: the descriptor in frame is whole; check it before anything in it is used. Returns
 * SP_FRAME, SP_OK when the payload was overwritten, or SP_E_CORRUPT. */
static inline int sp_accept(sp_reader *reader, sp_frame *frame)
{
    const sp_ring *ring = reader->ring;
    const sp_descriptor *found = &frame->descriptor;
    uint64_t offset = found->position % ring->arena_bytes;
    if (found->length > ring->arena_bytes || offset > ring->arena_bytes - found->length)
        return sp_refuse(SP_E_CORRUPT, reader->detail,
                         "frame %llu: %u bytes at position %llu leave the arena of %llu",
                         (unsigned long long)found->seq, found->length,
                         (unsigned long long)found->position,
                         (unsigned long long)ring->arena_bytes);
    frame->payload = ring->arena + offset;
    return sp_intact(ring, found->position) ? SP_FRAME : SP_OK;
}

/* sp_take copies the ready slot of the reader's next frame. Returns SP_FRAME, SP_OK when it was
 * lapped meanwhile (laps are counted), or SP_E_CORRUPT. */
static inline int sp_take(sp_reader *reader, const sp_descriptor *slot, sp_frame *frame)
{
    const uint64_t *from = (const uint64_t *)(const void *)slot;
    uint8_t *to = (uint8_t *)&frame->descriptor; /* word by word, never through a second copy */
    memcpy(to, &reader->next, 8);
    for (unsigned at = 1; at < SP_SLOT_BYTES / 8; at++) {
        uint64_t word = SP_LOAD_RELAXED(from + at);
        memcpy(to + 8 * at, &word, 8);
    }
    /* SYNC: pairs with the release fence after the busy mark in sp_write_slot. */
    SP_FENCE_ACQUIRE();
    if (SP_LOAD_RELAXED(&slot->seq) != reader->next) {
        reader->slot_laps++;
        return SP_OK;
    }
    int code = sp_accept(reader, frame);
    if (code == SP_FRAME)
        reader->next++;
    else if (code == SP_OK)
        reader->arena_laps++;
    return code;
}

/* sp_ready: is there anything for sp_poll to do? */
static inline int sp_ready(const sp_reader *reader)
{
    const sp_descriptor *slot = sp_slot(reader->ring, reader->next);
    return (int64_t)(SP_LOAD_ACQUIRE(&slot->seq) - reader->next) >= 0; /* SYNC: as in sp_poll */
}

/* sp_spin looks SP_LOOKS_AT_ONCE times and returns at once when there is anything for sp_poll to do:
 * then 1. Nothing but the slot's line and a counter is touched between two looks. */
static inline int sp_spin(const sp_reader *reader)
{
    const sp_descriptor *slot = sp_slot(reader->ring, reader->next);
    uint64_t next = reader->next;
    for (unsigned looks = 0; looks < SP_LOOKS_AT_ONCE; looks++) {
        if ((int64_t)(SP_LOAD_ACQUIRE(&slot->seq) - next) >= 0) /* SYNC: as in sp_poll */
            return 1;
        SP_PAUSE();
    }
    return 0;
}

/* sp_poll delivers the next frame if there is one. Never waits. Returns SP_FRAME; SP_OK when there
 * is none; SP_E_CLOSED once an ended ring is read to its end (see sp_ended; sp_wait notices an
 * orphan by itself, who only polls asks sp_orphaned now and then); SP_E_CORRUPT with reader->detail.
 * After an overrun it goes on at the oldest or newest whole frame and counts what was lost. */
static inline int sp_poll(sp_reader *reader, sp_frame *frame)
{
    for (int tries = 0; tries < SP_RESUME_TRIES_MAX; tries++) {
        const sp_descriptor *slot = sp_slot(reader->ring, reader->next);
        /* SYNC: pairs with the release store of slot.seq in sp_write_slot. */
        int64_t ahead = (int64_t)(SP_LOAD_ACQUIRE(&slot->seq) - reader->next);
        if (ahead < 0) {
            if (!sp_ended(reader->ring))
                return SP_OK;
            /* What was published before the ring ended is there by now, or even lapped: look
             * once more. */
            if (!sp_ready(reader))
                return SP_E_CLOSED;
            continue;
        }
        int code = SP_OK;
        if (ahead == 0)
            code = sp_take(reader, slot, frame);
        else
            reader->slot_laps++;
        if (code != SP_OK)
            return code;
        code = sp_resume_reader(reader);
        if (code != SP_OK)
            return code;
    }
    return SP_OK;
}

/* ----------------------------------------------------------------------------------- waiting -- */

/* sp_open_wake opens the .wake object that the ring's writer looks at now. Where it can't be
 * written, wake_fd stays -1 and the reader polls by time. */
static inline void sp_open_wake(sp_reader *reader)
{
    char path[256];
    struct stat status;
    /* SYNC: pairs with the release store of wake_inode in sp_writer_set_wake. */
    uint64_t inode = SP_LOAD_ACQUIRE(&reader->ring->header->wake_inode);
    sp_reader_close(reader);
    reader->wake_inode = inode;
    snprintf(path, sizeof path, "/dev/shm/sprint.%s.wake", reader->ring->instance);
    int fd = inode == 0 ? -1 : open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && (fstat(fd, &status) != 0 || (uint64_t)status.st_ino != inode)) {
        close(fd);
        fd = -1;
    }
    reader->wake_fd = fd;
}

/* sp_sleep sleeps until a frame may have come, a signal arrived, or at most timeout_ns. */
static inline int sp_sleep(sp_reader *reader, int64_t timeout_ns)
{
    const sp_header *header = reader->ring->header;
    if (reader->wake_inode != SP_LOAD_ACQUIRE(&header->wake_inode))
        sp_open_wake(reader);
    int raised = reader->wake_fd >= 0 && SP_RAISE_FLAG(reader->wake_fd, header->wake_offset) == 0;
    /* SYNC: pairs with the seq_cst fence in sp_announce: either the writer sees the flag, or we see
     * its head hint. */
    SP_FENCE_SEQ_CST();
    /* SYNC: pairs with the release store of head_hint: the slot is looked at after the hint, so a
     * frame that came before the value we sleep on is seen, one that came later changes it. */
    uint64_t head = SP_LOAD_ACQUIRE(&header->head_hint);
    if (sp_ready(reader) || sp_ended(reader->ring))
        return 0;
    int64_t bound = raised ? SP_SLEEP_NS_MAX : SP_SLEEP_NS_UNWAKED;
    return SP_FUTEX_WAIT((const uint32_t *)(const void *)&header->head_hint, (uint32_t)head,
                         timeout_ns < bound ? timeout_ns : bound);
}

/* sp_wait delivers the next frame, waiting as the reader's mode says for at most timeout_ns
 * (negative: without end). Returns as sp_poll; SP_OK also when a signal arrived in a sleep. */
static inline int sp_wait(sp_reader *reader, sp_frame *frame, int64_t timeout_ns)
{
    int code = sp_poll(reader, frame);
    if (code != SP_OK || timeout_ns == 0)
        return code;
    uint64_t started = sp_clock_ns(CLOCK_MONOTONIC);
    for (uint64_t looks = SP_LOOKS_AT_ONCE;; looks += SP_LOOKS_AT_ONCE) {
        if (sp_spin(reader) || looks % 1024 == 0) {
            code = sp_poll(reader, frame);
            if (code != SP_OK)
                return code;
        }
        int sleeps = reader->wait_mode == SP_WAIT_BLOCK && looks % SP_LOOKS_BEFORE_SLEEP == 0;
        int64_t left = INT64_MAX;
        if (timeout_ns > 0) {
            left = timeout_ns - (int64_t)(sp_clock_ns(CLOCK_MONOTONIC) - started);
            if (left <= 0)
                return sp_poll(reader, frame);
        }
        if (reader->wait_mode == SP_WAIT_SPIN_THEN_YIELD && looks >= SP_LOOKS_BEFORE_YIELD)
            sched_yield();
        if (looks % SP_LOOKS_BEFORE_DOUBT == 0 && sp_orphaned(reader->ring))
            return sp_poll(reader, frame);
        if (!sleeps)
            continue;
        int cause = sp_sleep(reader, left);
        code = sp_poll(reader, frame);
        if (code != SP_OK || cause == EINTR)
            return code;
        if (cause == ETIMEDOUT && sp_orphaned(reader->ring))
            return sp_poll(reader, frame);
    }
}

#endif /* SPRINT_H */
