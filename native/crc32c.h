/* crc32c.h: CRC32C (Castagnoli, RFC 3720), incremental, instruction set chosen at run time. */
#ifndef SPRINT_CRC32C_H
#define SPRINT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* sp_crc32c continues crc (0 to begin) over length bytes and returns the new value, so that
 * sp_crc32c(sp_crc32c(0, a), b) is the CRC of a then b. Thread-safe. */
uint32_t sp_crc32c(uint32_t crc, const void *bytes, size_t length);

/* sp_crc32c_portable is the same, always by table: the oracle of the self test. */
uint32_t sp_crc32c_portable(uint32_t crc, const void *bytes, size_t length);

/* sp_crc32c_method names what sp_crc32c uses here: "sse4.2+pclmul" or "table". */
const char *sp_crc32c_method(void);

/* sp_crc32c_self_test checks fixed vectors and that both ways agree. Returns 0, or -1. */
int sp_crc32c_self_test(void);

#endif /* SPRINT_CRC32C_H */
