/* What ring/ calls of sprint.h, ring.h, crc32c.h and notifier.h; the contracts stand there. */

#define SP_SLOT_COUNT_MIN ...
#define SP_SLOT_COUNT_MAX ...
#define SP_ARENA_BYTES_MIN ...
#define SP_ARENA_BYTES_MAX ...
#define SP_PAGE_BYTES ...
#define SP_WAKE_BYTES ...
#define SP_WAKE_FLAG_OFFSET ...
#define SP_SOURCES_MAX ...
#define SP_SOURCE_NAME_BYTES ...
#define SP_SLOTS_OFFSET ...

typedef struct {
    uint64_t seq;
    uint64_t position;
    uint32_t length;
    uint32_t crc32c;
    uint8_t kind;
    uint8_t chain;
    uint8_t level;
    uint32_t flags;
    int32_t height;
    uint16_t source;
    uint8_t hash[32];
    uint64_t publish_ns;
    uint64_t origin_ns;
    uint64_t first_byte_ns;
    uint64_t last_byte_ns;
    uint64_t stamp_ns;
    ...;
} sp_descriptor;

typedef struct {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t state;
    uint64_t epoch;
    uint64_t session;
    uint64_t segment_bytes;
    uint64_t created_ns;
    uint64_t slot_count;
    uint64_t slots_offset;
    uint64_t arena_offset;
    uint64_t arena_bytes;
    uint32_t slot_bytes;
    uint32_t sources_max;
    uint32_t wake_offset;
    uint64_t wake_inode;
    char instance[64];
    char network[32];
    char name[32];
    uint32_t writer_pid;
    uint64_t writer_start_ticks;
    uint64_t takeover_ns;
    uint64_t tail_intent;
    uint64_t head_hint;
    uint64_t heartbeat_ns;
    ...;
} sp_header;

typedef struct {
    const sp_header *header;
    const uint8_t *arena;
    uint64_t mapped_bytes;
    uint64_t arena_bytes;
    uint64_t session;
    int fd;
    char detail[...];
    ...;
} sp_ring;

typedef struct {
    uint64_t next;
    uint64_t frames_lost;
    uint64_t slot_laps;
    uint64_t arena_laps;
    char detail[...];
    ...;
} sp_reader;

typedef struct {
    sp_descriptor descriptor;
    const uint8_t *payload;
} sp_frame;

int sp_check_header(const sp_header *header, uint64_t file_bytes, char *detail);
int sp_attach(sp_ring *ring, const char *directory, const char *instance, const char *name);
void sp_detach(sp_ring *ring);
int sp_writer_alive(const sp_ring *ring);
uint64_t sp_ring_epoch(const sp_ring *ring);
uint32_t sp_ring_state(const sp_ring *ring);
int sp_ended(const sp_ring *ring);
int sp_orphaned(sp_ring *ring);
int sp_source_name(const sp_ring *ring, uint32_t index, char *name);
int sp_intact(const sp_ring *ring, uint64_t position);
uint64_t sp_head(const sp_ring *ring);
uint64_t sp_oldest(const sp_ring *ring, uint64_t from);
void sp_reader_init(sp_reader *reader, sp_ring *ring, uint64_t next, int resume, int wait_mode);
void sp_reader_close(sp_reader *reader);
int sp_poll(sp_reader *reader, sp_frame *frame);
int sp_wait(sp_reader *reader, sp_frame *frame, int64_t timeout_ns);

typedef struct {
    const void *bytes;
    uint64_t length;
} sp_part;

typedef struct {
    ...;
} sp_meta;

typedef struct {
    sp_header *header;
    uint8_t *arena;
    uint64_t next;
    uint64_t arena_bytes;
    uint64_t reserved_bytes;
    uint64_t revocations;
    uint32_t reservation_count;
    char detail[...];
    ...;
} sp_writer;

typedef struct {
    uint8_t *bytes;
    uint32_t capacity;
    uint32_t length;
    int32_t state;
    ...;
} sp_reservation;

uint64_t sp_segment_bytes(uint64_t slot_count, uint64_t arena_bytes);
void *sp_map_shared(int fd, uint64_t bytes, int writable);
void sp_unmap(void *base, uint64_t bytes);
int sp_writer_format(sp_writer *writer, void *base, uint64_t mapped_bytes, uint64_t slot_count,
                     uint64_t arena_bytes, const char *instance, const char *network,
                     const char *name, uint64_t session);
int sp_writer_takeover(sp_writer *writer, void *base, uint64_t mapped_bytes);
void sp_writer_set_wake(sp_writer *writer, void *wake, uint64_t inode, uint32_t offset);
void *sp_wake_map(int fd);
void sp_wake_format(void *wake);
int sp_wake_intact(const void *wake);
void sp_wake_unmap(void *wake);
int64_t sp_writer_publish(sp_writer *writer, const sp_meta *meta, const sp_part *parts,
                          uint64_t part_count);
int64_t sp_writer_publish_one(sp_writer *writer, uint32_t kind, uint32_t chain, uint32_t level,
                              uint32_t flags, int32_t height, uint32_t source, const uint8_t *hash,
                              uint64_t origin_ns, uint64_t first_byte_ns, uint64_t last_byte_ns,
                              const uint8_t *bytes, uint64_t length);
void sp_meta_fill(sp_meta *meta, uint32_t kind, uint32_t chain, uint32_t level, uint32_t flags,
                  int32_t height, uint32_t source, const uint8_t *hash, uint64_t origin_ns,
                  uint64_t first_byte_ns, uint64_t last_byte_ns);
int sp_writer_reserve(sp_writer *writer, uint64_t capacity, sp_reservation *reservation);
int sp_reservation_advance(sp_reservation *reservation, uint64_t count);
int64_t sp_reservation_commit(sp_reservation *reservation, const sp_meta *meta);
void sp_reservation_abandon(sp_reservation *reservation);
void sp_writer_drop(sp_writer *writer);
int sp_writer_set_source(sp_writer *writer, uint32_t index, const char *name);
void sp_writer_heartbeat(sp_writer *writer);
void sp_segment_close(sp_header *header);
uint64_t sp_stamp_ns(uint64_t floor);

uint32_t sp_crc32c(uint32_t crc, const void *bytes, size_t length);
uint32_t sp_crc32c_portable(uint32_t crc, const void *bytes, size_t length);
const char *sp_crc32c_method(void);
int sp_crc32c_self_test(void);

int sp_notifier_add(sp_ring *ring, int event_fd);
void sp_notifier_remove(int event_fd);
