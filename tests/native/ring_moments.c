/* ring_moments.c: whatever the writer does, at whichever moment of a reader's poll or wait.
 *
 * Every load of shared memory is a moment. For each starting state, each action of the writer and
 * each moment, the action happens right after that load; then the reader reads on to the end, and must
 * have been given, or have counted as lost, exactly what was published, whole or honestly lapped. */
#define SP_LOAD_RELAXED(address)                                                                   \
    __extension__({                                                                                \
        __typeof__(*(address) + 0) loaded = __atomic_load_n((address), __ATOMIC_RELAXED);          \
        moment();                                                                                  \
        loaded;                                                                                    \
    })
#define SP_LOAD_ACQUIRE(address)                                                                   \
    __extension__({                                                                                \
        __typeof__(*(address) + 0) loaded = __atomic_load_n((address), __ATOMIC_ACQUIRE);          \
        moment();                                                                                  \
        loaded;                                                                                    \
    })
/* Nobody else runs: a sleep is a moment too, and ends at once as if by itself. */
#define SP_FUTEX_WAIT(word, expected, timeout_ns)                                                  \
    ((void)(word), (void)(expected), (void)(timeout_ns), moment(), ETIMEDOUT)

static void moment(void);

#include "ring_rig.h"

/* The writer's C, compiled here so that it shares the macros; it is not scheduled itself. */
#include "../../native/ring.c"

enum action { ONE_FRAME, SLOT_LAP, ARENA_LAP, CLOSE, FRAME_AND_CLOSE, LAP_AND_CLOSE, ABANDON, ACTIONS };

static rig the_rig;
static int action, countdown, acting;
static uint64_t next_number;

static void put(uint32_t length)
{
    sp_meta meta = rig_meta(++next_number);
    sp_part part = {rig_payload(next_number), length};
    REQUIRE(sp_writer_publish(&the_rig.writer, &meta, &part, 1) > 0, "publish");
}

static void act(void)
{
    sp_reservation room;
    int frames = action == SLOT_LAP || action == LAP_AND_CLOSE ? 11 : action == ARENA_LAP ? 5 : 1;
    if (action == ABANDON) {
        REQUIRE(sp_writer_reserve(&the_rig.writer, 3000, &room) == SP_OK, "reserve");
        memset(room.bytes, 0xee, 3000);
        sp_reservation_abandon(&room);
    } else if (action != CLOSE) {
        for (int at = 0; at < frames; at++)
            put(action == ARENA_LAP ? 4000 : 100);
    }
    if (action == CLOSE || action == FRAME_AND_CLOSE || action == LAP_AND_CLOSE)
        SP_STORE_RELEASE(&the_rig.writer.header->state, SP_STATE_CLOSED);
}

static void moment(void)
{
    if (acting || countdown < 0 || countdown-- > 0)
        return;
    acting = 1;
    act();
    acting = 0;
}

/* read_to_end takes all there is; before the end comes the rest of the story: one last frame and the
 * close, unless that was the action. */
static uint64_t read_to_end(sp_reader *reader, int wait, int *ended)
{
    static uint8_t room[NOISE_BYTES];
    uint64_t received = 0, last = 0;
    sp_frame frame;
    for (;;) {
        int code = wait ? sp_wait(reader, &frame, 1000) : sp_poll(reader, &frame);
        REQUIRE(code >= 0 || code == SP_E_CLOSED, "%d %s", code, reader->detail);
        *ended = code == SP_E_CLOSED;
        if (code != SP_FRAME)
            return received;
        received++;
        REQUIRE(frame.descriptor.seq > last, "repeated");
        last = frame.descriptor.seq;
        (void)rig_check(&the_rig.ring, &frame, room);
        REQUIRE(received + reader->frames_lost == last, "%llu received, %llu lost, at frame %llu",
                (unsigned long long)received, (unsigned long long)reader->frames_lost,
                (unsigned long long)last);
    }
}

/* Returns 0 when the story was over before the moment came. */
static int story(int frames_before, int what, int when, int resume, int wait)
{
    sp_reader reader;
    int ended = 0;
    rig_open(&the_rig, 8, 16384);
    next_number = 0;
    countdown = -1;
    for (int at = 0; at < frames_before; at++)
        put(300);
    rig_reader(&the_rig, &reader, resume, SP_WAIT_BLOCK);
    action = what;
    countdown = when;
    uint64_t received = read_to_end(&reader, wait, &ended);
    int came = countdown < 0;
    countdown = -1;
    if (!ended) {
        put(10);
        SP_STORE_RELEASE(&the_rig.writer.header->state, SP_STATE_CLOSED);
    }
    while (!ended) {
        uint64_t before = reader.frames_lost + received;
        sp_frame frame;
        int code = sp_poll(&reader, &frame);
        received += code == SP_FRAME;
        ended = code == SP_E_CLOSED;
        REQUIRE(ended || reader.frames_lost + received > before, "no way on");
    }
    REQUIRE(received + reader.frames_lost == the_rig.writer.next - 1,
            "state %d action %d moment %d: %llu received, %llu lost of %llu", frames_before, what,
            when, (unsigned long long)received, (unsigned long long)reader.frames_lost,
            (unsigned long long)the_rig.writer.next - 1);
    sp_reader_close(&reader);
    rig_close(&the_rig);
    return came;
}

int main(void)
{
    static const int states[] = {0, 1, 3, 7, 8, 9, 30};
    unsigned long stories = 0;
    for (unsigned state = 0; state < sizeof states / sizeof *states; state++)
        for (int what = 0; what < ACTIONS; what++)
            for (int way = 0; way < 4; way++)
                for (int when = 0; when < 5000; when++, stories++)
                    if (!story(states[state], what, when, way % 2, way / 2))
                        break;
    printf("stories %lu\n", stories);
    return 0;
}
