/* ring_segment.c: make a segment a ring, take over a dead writer's, give one up; the .wake page.
 *
 * The caller (ring/segment.py) holds the segment's write lock throughout; no other process writes.
 * Readers may be attached during a takeover and see every store of it. */
#include "ring.h"

#include "crc32c.h"

#include <signal.h>
#include <stdlib.h>

#define POSITION_MAX (UINT64_C(1) << 62) /* no ring lives to see it */

uint64_t sp_segment_bytes(uint64_t slot_count, uint64_t arena_bytes)
{
    return sp_round_up(SP_SLOTS_OFFSET + slot_count * SP_SLOT_BYTES, SP_PAGE_BYTES) + arena_bytes;
}

void *sp_map_shared(int fd, uint64_t bytes, int writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, (size_t)bytes, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

void sp_unmap(void *base, uint64_t bytes)
{
    if (base != NULL)
        munmap(base, (size_t)bytes);
}

/* Field 22 of /proc/self/stat; the name in field 2 may hold anything, so count from its end. */
static uint64_t start_ticks(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (count <= 0)
        return 0;
    text[count] = 0;
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

static void open_on(sp_writer *writer, void *base, uint64_t mapped_bytes)
{
    sp_header *header = base;
    writer->header = header;
    writer->slots = (sp_descriptor *)(void *)((uint8_t *)base + header->slots_offset);
    writer->arena = (uint8_t *)base + header->arena_offset;
    writer->mapped_bytes = mapped_bytes;
    writer->slot_mask = header->slot_count - 1;
    writer->arena_bytes = header->arena_bytes;
    uint64_t step = header->arena_bytes / SP_INTENT_STEP_SHARE / SP_PAYLOAD_ALIGN;
    writer->intent_step = SP_PAYLOAD_ALIGN * step;
    if (writer->intent_step > SP_INTENT_STEP_MAX)
        writer->intent_step = SP_INTENT_STEP_MAX;
    header->writer_pid = (uint32_t)getpid();
    header->writer_start_ticks = start_ticks();
    header->takeover_ns = sp_clock_ns(CLOCK_REALTIME);
    sp_writer_heartbeat(writer);
}

static int copy_name(char *to, size_t bytes, const char *from)
{
    size_t length = strlen(from);
    if (length == 0 || length >= bytes)
        return -1;
    memcpy(to, from, length + 1);
    return 0;
}

int sp_writer_format(sp_writer *writer, void *base, uint64_t mapped_bytes, uint64_t slot_count,
                     uint64_t arena_bytes, const char *instance, const char *network,
                     const char *name, uint64_t session)
{
    sp_header *header = base;
    memset(writer, 0, sizeof *writer);
    if (slot_count < SP_SLOT_COUNT_MIN || slot_count > SP_SLOT_COUNT_MAX ||
        (slot_count & (slot_count - 1)) != 0)
        return sp_refuse(SP_E_ARGUMENT, writer->detail,
                         "slot count %llu is no power of two from %llu to %llu",
                         (unsigned long long)slot_count, (unsigned long long)SP_SLOT_COUNT_MIN,
                         (unsigned long long)SP_SLOT_COUNT_MAX);
    if (arena_bytes < SP_ARENA_BYTES_MIN || arena_bytes > SP_ARENA_BYTES_MAX ||
        arena_bytes % SP_PAGE_BYTES != 0)
        return sp_refuse(SP_E_ARGUMENT, writer->detail,
                         "arena size %llu is not whole pages from %llu to %llu",
                         (unsigned long long)arena_bytes, (unsigned long long)SP_ARENA_BYTES_MIN,
                         (unsigned long long)SP_ARENA_BYTES_MAX);
    if (mapped_bytes < sp_segment_bytes(slot_count, arena_bytes) || session == 0)
        return sp_refuse(SP_E_ARGUMENT, writer->detail, "mapping too small, or session 0");
    header->layout_version = SP_LAYOUT_VERSION;
    header->epoch = 1;
    header->session = session;
    header->segment_bytes = sp_segment_bytes(slot_count, arena_bytes);
    header->created_ns = sp_clock_ns(CLOCK_REALTIME);
    header->slot_count = slot_count;
    header->slots_offset = SP_SLOTS_OFFSET;
    header->arena_offset = header->segment_bytes - arena_bytes;
    header->arena_bytes = arena_bytes;
    header->slot_bytes = SP_SLOT_BYTES;
    header->sources_max = SP_SOURCES_MAX;
    if (copy_name(header->instance, sizeof header->instance, instance) != 0 ||
        copy_name(header->network, sizeof header->network, network) != 0 ||
        copy_name(header->name, sizeof header->name, name) != 0)
        return sp_refuse(SP_E_ARGUMENT, writer->detail,
                         "an instance, network or ring name is empty or too long");
    open_on(writer, base, mapped_bytes);
    writer->next = 1;
    SP_STORE_RELAXED(&header->state, SP_STATE_LIVE);
    SP_STORE_RELEASE(&header->magic, SP_RING_MAGIC); /* SYNC: pairs with sp_check_header's load */
    return SP_OK;
}

/* What a scan of a dead writer's slots found. */
typedef struct found {
    uint64_t newest; /* sequence, 0: none */
    uint64_t oldest; /* of the numbers in the slots */
    uint64_t busy;   /* value of the one slot that was being written, UINT64_MAX: none */
} found;

/* scan reads every slot: each must hold the number of a frame that belongs there, a busy mark, or
 * nothing yet. */
static int scan(const sp_header *header, const sp_descriptor *slots, found *out, char *detail)
{
    uint64_t mask = header->slot_count - 1;
    *out = (found){0, UINT64_MAX, UINT64_MAX};
    for (uint64_t at = 0; at <= mask; at++) {
        uint64_t seq = slots[at].seq;
        if (seq == 0)
            continue;
        if ((seq & mask) == at) {
            out->newest = seq > out->newest ? seq : out->newest;
            out->oldest = seq < out->oldest ? seq : out->oldest;
        } else if (((seq + 1) & mask) == at && out->busy == UINT64_MAX) {
            out->busy = seq;
        } else {
            return sp_refuse(SP_E_CORRUPT, detail, "slot %llu holds frame %llu",
                             (unsigned long long)at, (unsigned long long)seq);
        }
    }
    if (out->newest > 0 && out->newest - out->oldest > mask)
        return sp_refuse(SP_E_CORRUPT, detail, "slots hold frames %llu and %llu at once",
                         (unsigned long long)out->oldest, (unsigned long long)out->newest);
    if (out->busy != UINT64_MAX && out->busy != out->newest)
        return sp_refuse(SP_E_CORRUPT, detail, "frame %llu was being written after frame %llu",
                         (unsigned long long)out->busy + 1, (unsigned long long)out->newest);
    uint64_t hint = header->head_hint;
    if (hint != out->newest && hint + 1 != out->newest)
        return sp_refuse(SP_E_CORRUPT, detail, "head hint is %llu, the newest frame %llu",
                         (unsigned long long)hint, (unsigned long long)out->newest);
    return SP_OK;
}

/* check_place verifies that a frame lies within the arena and below the intent. */
static int check_place(const sp_header *header, const sp_descriptor *frame, char *detail)
{
    uint64_t offset = frame->position % header->arena_bytes, intent = header->tail_intent;
    if (frame->length <= header->arena_bytes && offset <= header->arena_bytes - frame->length &&
        frame->position <= intent && frame->length <= intent - frame->position)
        return SP_OK;
    return sp_refuse(SP_E_CORRUPT, detail, "frame %llu: %u bytes at position %llu, tail at %llu",
                     (unsigned long long)frame->seq, frame->length,
                     (unsigned long long)frame->position, (unsigned long long)intent);
}

/* check_run verifies that each slot holds the one frame that the newest leaves for it, in a place
 * that a frame can have: a reader would wait at a hole, or stop at a wrong place, for good. */
static int check_run(const sp_header *header, const sp_descriptor *slots, const found *hold,
                     char *detail)
{
    uint64_t mask = header->slot_count - 1;
    if (header->tail_intent > POSITION_MAX)
        return sp_refuse(SP_E_CORRUPT, detail, "tail at %llu",
                         (unsigned long long)header->tail_intent);
    for (uint64_t at = 0; at <= mask; at++) {
        uint64_t back = (hold->newest - at) & mask;
        uint64_t expected = back < hold->newest ? hold->newest - back : 0;
        if (hold->busy != UINT64_MAX && at == ((hold->newest + 1) & mask))
            continue;
        if (slots[at].seq != expected)
            return sp_refuse(SP_E_CORRUPT, detail, "slot %llu holds frame %llu instead of %llu",
                             (unsigned long long)at, (unsigned long long)slots[at].seq,
                             (unsigned long long)expected);
        int code = expected == 0 ? SP_OK : check_place(header, &slots[at], detail);
        if (code != SP_OK)
            return code;
    }
    return SP_OK;
}

/* check_newest verifies the newest frame's CRC, if its payload was not overwritten. */
static int check_newest(const sp_header *header, const sp_descriptor *frame, const uint8_t *arena,
                        char *detail)
{
    uint64_t offset = frame->position % header->arena_bytes;
    if (header->tail_intent - frame->position > header->arena_bytes)
        return SP_OK;
    uint32_t crc = sp_crc32c(0, arena + offset, frame->length);
    if (crc != frame->crc32c)
        return sp_refuse(SP_E_CORRUPT, detail,
                         "frame %llu: CRC32C is %08x, its descriptor says %08x",
                         (unsigned long long)frame->seq, crc, frame->crc32c);
    return SP_OK;
}

int sp_writer_takeover(sp_writer *writer, void *base, uint64_t mapped_bytes)
{
    sp_header *header = base;
    found slots_hold;
    memset(writer, 0, sizeof *writer);
    int code = sp_check_header(header, mapped_bytes, writer->detail);
    if (code != SP_OK)
        return code;
    if (header->state != SP_STATE_LIVE)
        return sp_refuse(SP_E_CLOSED, writer->detail, "its state is %u", header->state);
    const sp_descriptor *slots =
        (const sp_descriptor *)(const void *)((const uint8_t *)base + header->slots_offset);
    const uint8_t *arena = (const uint8_t *)base + header->arena_offset;
    code = scan(header, slots, &slots_hold, writer->detail);
    if (code != SP_OK)
        return code;
    code = check_run(header, slots, &slots_hold, writer->detail);
    if (code != SP_OK)
        return code;
    const sp_descriptor *newest = &slots[slots_hold.newest & (header->slot_count - 1)];
    if (slots_hold.newest > 0) {
        code = check_newest(header, newest, arena, writer->detail);
        if (code != SP_OK)
            return code;
    }
    open_on(writer, base, mapped_bytes);
    if (slots_hold.newest > 0)
        (void)sp_stamp_ns(newest->stamp_ns);
    writer->next = slots_hold.newest + 1;
    writer->intent = header->tail_intent;
    writer->allocated = sp_round_up(writer->intent, SP_PAYLOAD_ALIGN);
    SP_STORE_RELEASE(&header->head_hint, slots_hold.newest); /* SYNC: as in sp_announce */
    SP_STORE_RELEASE(&header->epoch, header->epoch + 1); /* SYNC: pairs with sp_ring_epoch */
    SP_FENCE_SEQ_CST();
    SP_FUTEX_WAKE_ALL(&header->head_hint);
    return SP_OK;
}

void sp_writer_set_wake(sp_writer *writer, void *wake, uint64_t inode, uint32_t offset)
{
    writer->wake_flag = wake == NULL ? NULL : (uint32_t *)(void *)((uint8_t *)wake + offset);
    SP_STORE_RELAXED(&writer->header->wake_offset, offset);
    /* SYNC: pairs with the acquire loads of wake_inode in sp_open_wake and sp_sleep. */
    SP_STORE_RELEASE(&writer->header->wake_inode, wake == NULL ? 0 : inode);
    /* Whoever sleeps raised its flag in the object before, where nobody looks any more. */
    SP_FENCE_SEQ_CST();
    SP_FUTEX_WAKE_ALL(&writer->header->head_hint);
}

void sp_segment_close(sp_header *header)
{
    SP_STORE_RELEASE(&header->state, SP_STATE_CLOSED); /* SYNC: pairs with sp_ring_state */
    SP_FENCE_SEQ_CST();
    SP_FUTEX_WAKE_ALL(&header->head_hint);
}

/* The .wake page is the one thing that a reader may write, and so truncate; touching it would then
 * kill the writer. The handler puts an anonymous page of zeros in its place: sleepers are no longer
 * woken early until the writer makes a new object, and wake by their own bound. */
#define GUARDS_MAX 64
static void *guarded[GUARDS_MAX];
static struct sigaction action_before;

static void on_bus_error(int signal_number, siginfo_t *cause, void *context)
{
    uint8_t *fault = cause->si_addr;
    for (int at = 0; at < GUARDS_MAX; at++) {
        uint8_t *page = __atomic_load_n(&guarded[at], __ATOMIC_RELAXED);
        if (page != NULL && fault >= page && fault < page + SP_WAKE_BYTES &&
            mmap(page, SP_WAKE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page)
            return;
    }
    if ((action_before.sa_flags & SA_SIGINFO) != 0)
        action_before.sa_sigaction(signal_number, cause, context);
    else if (action_before.sa_handler != SIG_DFL && action_before.sa_handler != SIG_IGN)
        action_before.sa_handler(signal_number);
    else
        signal(SIGBUS, SIG_DFL); /* the access is tried again and ends the process */
}

static int guard(void *page)
{
    struct sigaction now, ours;
    if (sigaction(SIGBUS, NULL, &now) != 0)
        return -1;
    if ((now.sa_flags & SA_SIGINFO) == 0 || now.sa_sigaction != on_bus_error) {
        memset(&ours, 0, sizeof ours);
        ours.sa_sigaction = on_bus_error;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        action_before = now;
        if (sigaction(SIGBUS, &ours, NULL) != 0)
            return -1;
    }
    for (int at = 0; at < GUARDS_MAX; at++) {
        void *none = NULL;
        if (__atomic_compare_exchange_n(&guarded[at], &none, page, 0, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return 0;
    }
    errno = EMFILE;
    return -1;
}

void *sp_wake_map(int fd)
{
    void *page = mmap(NULL, SP_WAKE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return NULL;
    if (guard(page) != 0) {
        int cause = errno;
        munmap(page, SP_WAKE_BYTES);
        errno = cause;
        return NULL;
    }
    return page;
}

void sp_wake_format(void *wake)
{
    /* SYNC: pairs with the relaxed look in sp_wake_intact, after which nothing else is read */
    SP_STORE_RELEASE((uint64_t *)wake, SP_WAKE_MAGIC);
}

int sp_wake_intact(const void *wake)
{
    return SP_LOAD_RELAXED((const uint64_t *)wake) == SP_WAKE_MAGIC;
}

void sp_wake_unmap(void *wake)
{
    for (int at = 0; at < GUARDS_MAX && wake != NULL; at++)
        if (__atomic_load_n(&guarded[at], __ATOMIC_RELAXED) == wake) {
            munmap(wake, SP_WAKE_BYTES);
            __atomic_store_n(&guarded[at], NULL, __ATOMIC_RELAXED);
            return;
        }
}
