/* Loops over one-message-at-a-time SHA-256, so that no interpreter stands between two messages. */
#include <stddef.h>
#include <stdint.h>

#define SHOWN __attribute__((visibility("default")))

/* SHA256_CTX of OpenSSL is smaller. */
typedef struct context {
    _Alignas(16) uint8_t bytes[256];
} context;

typedef int start(context *);
typedef int update(context *, const void *, size_t);
typedef int finish(unsigned char *, context *);
typedef void once(uint8_t *, const uint8_t *, size_t);

/* loop_openssl: hash `count` messages of `length` bytes that stand one after another, the last hash
 * to `out`; twice: and each hash again. */
SHOWN void loop_openssl(start *begin, update *take, finish *end, uint8_t *out, const uint8_t *data,
                        size_t length, size_t count, int twice) {
    for (size_t i = 0; i < count; i++) {
        context of;
        begin(&of), take(&of, data + length * i, length), end(out, &of);
        if (!twice) continue;
        begin(&of), take(&of, out, 32), end(out, &of);
    }
}

SHOWN void loop_once(once *hash, uint8_t *out, const uint8_t *data, size_t length, size_t count) {
    for (size_t i = 0; i < count; i++) hash(out, data + length * i, length);
}
