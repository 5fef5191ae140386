/* ring_threads.c: a writer and readers in threads of one process, for the sanitizers.
 *
 *   ring_threads FRAMES READERS SEED
 *
 * Publishes, gathers, reserves, commits out of order, abandons, is revoked, renames sources; readers
 * wait in all three modes and resume both ways. Prints what each reader saw; ends with 1 at the
 * first frame that is torn, mixed, repeated or unaccounted for. */
#include "ring_rig.h"

#define OPEN_MAX 12
#define LENGTH_MAX (NOISE_BYTES / 4)

typedef struct tally {
    pthread_t thread;
    rig *one;
    int index;
    uint64_t received, whole, lost, laps;
} tally;

static void *read_all(void *argument)
{
    tally *mine = argument;
    sp_reader reader;
    sp_frame frame;
    uint64_t last = 0;
    char name[SP_SOURCE_NAME_BYTES];
    uint8_t *room = malloc(LENGTH_MAX + 1);
    int code;
    rig_reader(mine->one, &reader, mine->index % 2, mine->index % 3);
    while ((code = sp_wait(&reader, &frame, -1)) != SP_E_CLOSED) {
        REQUIRE(code >= 0, "%s", reader.detail);
        if (code == SP_OK)
            continue;
        mine->received++;
        REQUIRE(frame.descriptor.seq > last, "frame %llu after %llu",
                (unsigned long long)frame.descriptor.seq, (unsigned long long)last);
        last = frame.descriptor.seq;
        REQUIRE(mine->received + reader.frames_lost == last, "unaccounted at frame %llu",
                (unsigned long long)last);
        mine->whole += (uint64_t)rig_check(&mine->one->ring, &frame, room);
        if (sp_source_name(&mine->one->ring, frame.descriptor.source, name) == 1)
            REQUIRE(strspn(name, "s") == strlen(name) && strlen(name) % 5 == 0, "name %s", name);
        if (mine->index == 3 && mine->received % 64 == 0)
            usleep(2000);
    }
    mine->lost = reader.frames_lost;
    mine->laps = reader.slot_laps + reader.arena_laps;
    sp_reader_close(&reader);
    free(room);
    return NULL;
}

typedef struct job {
    sp_reservation reservation;
    uint64_t number;
    uint32_t length;
} job;

static void receive_or_finish(job *jobs, int *open, int at, uint64_t *seed)
{
    job *one = &jobs[at];
    uint32_t done = one->reservation.length, left = one->length - done;
    if (left > 0) {
        uint32_t count = (uint32_t)(rig_random(seed) % left) + 1;
        SP_PAYLOAD_COPY(one->reservation.bytes + done, rig_payload(one->number) + done, count);
        REQUIRE(sp_reservation_advance(&one->reservation, count) == SP_OK, "advance");
        return;
    }
    sp_meta meta = rig_meta(one->number);
    if (rig_random(seed) % 5 == 0)
        sp_reservation_abandon(&one->reservation);
    else
        REQUIRE(sp_reservation_commit(&one->reservation, &meta) > 0, "commit");
    /* A reservation's address must stay put, so the last one is not moved: it is used up in place. */
    while (*open > 0 && jobs[*open - 1].reservation.state == SP_RESERVATION_DONE)
        --*open;
}

static void publish_one(sp_writer *writer, uint64_t number, uint32_t length)
{
    sp_meta meta = rig_meta(number);
    sp_part parts[2] = {{rig_payload(number), length / 3},
                        {rig_payload(number) + length / 3, length - length / 3}};
    REQUIRE(sp_writer_publish(writer, &meta, parts, 2) > 0, "%s", writer->detail);
}

static void write_all(rig *one, uint64_t frames, uint64_t seed)
{
    static const char names[] = "ssssssssssssssssssssssssssssss";
    job jobs[OPEN_MAX];
    int open = 0;
    for (uint64_t number = 1; one->writer.next <= frames; number++) {
        uint32_t length = (uint32_t)(rig_random(&seed) % LENGTH_MAX) >> rig_random(&seed) % 17;
        uint64_t draw = rig_random(&seed) % 100;
        if (draw < 6 && open < OPEN_MAX) {
            jobs[open].number = number;
            jobs[open].length = length;
            REQUIRE(sp_writer_reserve(&one->writer, length + 1, &jobs[open].reservation) == SP_OK,
                    "%s", one->writer.detail);
            open++;
        } else if (draw < 25 && open > 0) {
            int at = (int)(rig_random(&seed) % (uint64_t)open);
            if (jobs[at].reservation.state != SP_RESERVATION_DONE)
                receive_or_finish(jobs, &open, at, &seed);
        } else {
            publish_one(&one->writer, number, length);
        }
        if (number % 100 == 0)
            sp_writer_set_source(&one->writer, number % 64, names + 5 * (number / 100 % 6));
        if (number % 257 == 0)
            sp_writer_heartbeat(&one->writer);
    }
    sp_writer_drop(&one->writer);
    sp_segment_close(one->writer.header);
}

int main(int count, char **arguments)
{
    REQUIRE(count == 4, "usage: ring_threads FRAMES READERS SEED");
    uint64_t frames = strtoull(arguments[1], NULL, 10), seed = strtoull(arguments[3], NULL, 10);
    int readers = atoi(arguments[2]);
    static tally tallies[16];
    rig one;
    rig_open(&one, 64, 1 << 20);
    REQUIRE(sp_crc32c_self_test() == 0, "crc32c");
    for (int at = 0; at < readers && at < 16; at++) {
        tallies[at].one = &one;
        tallies[at].index = at;
        REQUIRE(pthread_create(&tallies[at].thread, NULL, read_all, &tallies[at]) == 0, "thread");
    }
    write_all(&one, frames, seed);
    for (int at = 0; at < readers && at < 16; at++) {
        tally *its = &tallies[at];
        pthread_join(its->thread, NULL);
        REQUIRE(its->received + its->lost == frames, "reader %d: %llu + %llu", at,
                (unsigned long long)its->received, (unsigned long long)its->lost);
        printf("received %llu whole %llu lost %llu laps %llu\n", (unsigned long long)its->received,
               (unsigned long long)its->whole, (unsigned long long)its->lost,
               (unsigned long long)its->laps);
    }
    printf("revocations %llu\n", (unsigned long long)one.writer.revocations);
    rig_close(&one);
    return 0;
}
