#define SP_HEADERS_UNKNOWN -201
#define SP_HEADERS_FULL -202
#define SP_HEADERS_NO_MEMORY -203
#define SP_HEADERS_KNOWN -204

typedef struct sp_header_node {
    uint64_t work[4];
    uint8_t header[80];
    uint8_t hash[32];
    uint32_t parent, jump;
    uint32_t height;
    uint8_t condemned;
    uint8_t reserved[3];
} sp_header_node;

typedef struct sp_header_tree sp_header_tree;

sp_header_tree *sp_headers_new(const uint8_t *header, uint32_t height, const uint8_t *work,
                               const uint32_t *times, uint32_t times_count, uint32_t capacity_max);
void sp_headers_free(sp_header_tree *tree);
uint32_t sp_headers_count(const sp_header_tree *tree);
uint32_t sp_headers_best(const sp_header_tree *tree);
int64_t sp_headers_find(const sp_header_tree *tree, const uint8_t *hash);
int64_t sp_headers_append(sp_header_tree *tree, const uint8_t *header);
uint32_t sp_headers_load(sp_header_tree *tree, const uint8_t *headers, uint32_t count);
const sp_header_node *sp_headers_at(const sp_header_tree *tree, uint32_t index);
int64_t sp_headers_ancestor(const sp_header_tree *tree, uint32_t index, uint32_t height);
uint32_t sp_headers_fork(const sp_header_tree *tree, uint32_t a, uint32_t b);
uint32_t sp_headers_median_time(const sp_header_tree *tree, uint32_t index);
uint32_t sp_headers_last_real(const sp_header_tree *tree, uint32_t index, uint32_t interval,
                              uint32_t limit_bits);
void sp_headers_copy(const sp_header_tree *tree, uint32_t index, uint32_t count, uint8_t *headers);
void sp_headers_condemn(sp_header_tree *tree, uint32_t index);
void sp_headers_absolve(sp_header_tree *tree, uint32_t index);
