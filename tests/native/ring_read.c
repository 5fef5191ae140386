/* ring_read.c: a reader with nothing but sprint.h, in the language that C11 and C++17 share.
 *
 *   ring_read INSTANCE NAME [DIRECTORY]
 *
 * Prints each frame as "sequence kind height length first-byte source-name" until the ring ends. */
#include "sprint.h"

#include <stdlib.h>

int main(int count, char **arguments)
{
    sp_ring ring;
    sp_reader reader;
    sp_frame frame;
    char name[SP_SOURCE_NAME_BYTES];
    if (count < 3)
        return 2;
    int code = sp_attach(&ring, count > 3 ? arguments[3] : NULL, arguments[1], arguments[2]);
    if (code != SP_OK) {
        printf("error %d %s\n", code, ring.detail);
        return 1;
    }
    sp_reader_init(&reader, &ring, sp_oldest(&ring, 1), SP_RESUME_OLDEST, SP_WAIT_BLOCK);
    printf("attached epoch %llu alive %d\n", (unsigned long long)sp_ring_epoch(&ring),
           sp_writer_alive(&ring));
    fflush(stdout);
    while ((code = sp_wait(&reader, &frame, -1)) >= 0) {
        if (code != SP_FRAME)
            continue;
        uint8_t *copy = (uint8_t *)malloc(frame.descriptor.length + 1u);
        if (sp_frame_copy(&ring, &frame, copy) == SP_OK) {
            sp_source_name(&ring, frame.descriptor.source, name);
            printf("%llu %u %d %u %u %s\n", (unsigned long long)frame.descriptor.seq,
                   frame.descriptor.kind, frame.descriptor.height, frame.descriptor.length, copy[0],
                   name);
        }
        free(copy);
    }
    printf("end %d lost %llu\n", code, (unsigned long long)reader.frames_lost);
    sp_reader_close(&reader);
    sp_detach(&ring);
    return code == SP_E_CLOSED ? 0 : 1;
}
