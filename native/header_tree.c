/* Every accepted block header, as a tree in flat memory. */
#include "header_tree.h"

#include <stdlib.h>
#include <string.h>

#include "sha256.h"

enum { CONDEMNED_ITSELF = 1, CONDEMNED_BY_ANCESTOR = 2 };

struct sp_header_tree {
    sp_header_node *nodes;
    uint32_t *table; /* open addressing: index + 1, 0 is free; a power of two, at most half full */
    uint32_t count, capacity, capacity_max, table_mask;
    uint32_t best;
    uint32_t times[SP_MEDIAN_SPAN - 1]; /* before the root, newest first */
    uint32_t times_count;
    uint32_t work_bits; /* whose work `work` is; most headers have their parent's target */
    uint64_t work[4];
};

static inline uint32_t load_le32(const uint8_t *data) {
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static inline uint32_t node_time(const sp_header_node *node) { return load_le32(node->header + 68); }
static inline uint32_t node_bits(const sp_header_node *node) { return load_le32(node->header + 72); }

/* --- 256-bit arithmetic, least significant word first --- */

static int compare(const uint64_t a[4], const uint64_t b[4]) {
    for (int i = 3; i >= 0; i--)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

static void add(uint64_t sum[4], const uint64_t value[4]) {
    unsigned carry = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t before = sum[i];
        sum[i] = before + value[i] + carry;
        carry = sum[i] < before || (carry && sum[i] == before);
    }
}

static void subtract(uint64_t from[4], const uint64_t value[4]) {
    unsigned borrow = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t before = from[i];
        from[i] = before - value[i] - borrow;
        borrow = before < value[i] || (borrow && before == value[i]);
    }
}

/* target_of: the target of a compact form; 0 where it is negative, zero or too large. */
static int target_of(uint32_t bits, uint64_t target[4]) {
    unsigned exponent = bits >> 24;
    uint32_t mantissa = bits & 0x007fffff;
    memset(target, 0, 32);
    if (bits & 0x00800000) return 0;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t byte = (mantissa >> (8 * (2 - i))) & 0xff;
        int place = (int)exponent - 1 - (int)i; /* which byte of the number, 0 is the lowest */
        if (byte == 0 || place < 0) continue;
        if (place > 31) return 0;
        target[place / 8] |= byte << (8 * (place % 8));
    }
    return (target[0] | target[1] | target[2] | target[3]) != 0;
}

/* work_of: floor(2^256 / (target + 1)), which is floor(~target / (target + 1)) + 1, by long
 * division, one bit a step. */
static void work_of(uint32_t bits, uint64_t quotient[4]) {
    static const uint64_t one[4] = {1, 0, 0, 0};
    uint64_t dividend[4], divisor[4], rest[4] = {0};
    memset(quotient, 0, 32);
    if (!target_of(bits, divisor)) return;
    for (int i = 0; i < 4; i++) dividend[i] = ~divisor[i];
    add(divisor, one);
    for (int bit = 255; bit >= 0; bit--) {
        unsigned lost = (unsigned)(rest[3] >> 63);
        for (int i = 3; i > 0; i--) rest[i] = rest[i] << 1 | rest[i - 1] >> 63;
        rest[0] = rest[0] << 1 | ((dividend[bit / 64] >> (bit % 64)) & 1);
        if (lost || compare(rest, divisor) >= 0) {
            subtract(rest, divisor);
            quotient[bit / 64] |= UINT64_C(1) << (bit % 64);
        }
    }
    add(quotient, one);
}

/* --- the table of hashes --- */

static uint32_t slot_of(const sp_header_tree *tree, const uint8_t hash[32]) {
    /* The first bytes of a block hash are its low ones: nobody's proof of work fixes them. */
    uint32_t slot = load_le32(hash) & tree->table_mask;
    while (tree->table[slot] != 0 && memcmp(tree->nodes[tree->table[slot] - 1].hash, hash, 32) != 0)
        slot = (slot + 1) & tree->table_mask;
    return slot;
}

static int grow_table(sp_header_tree *tree, uint32_t slots) {
    uint32_t *table = calloc(slots, sizeof *table);
    if (table == NULL) return SP_HEADERS_NO_MEMORY;
    free(tree->table);
    tree->table = table;
    tree->table_mask = slots - 1;
    for (uint32_t i = 0; i < tree->count; i++)
        tree->table[slot_of(tree, tree->nodes[i].hash)] = i + 1;
    return 0;
}

static int make_room(sp_header_tree *tree) {
    if (tree->count >= tree->capacity_max) return SP_HEADERS_FULL;
    if (tree->count == tree->capacity) {
        uint64_t capacity = (uint64_t)tree->capacity + tree->capacity / 4 + 1024;
        if (capacity > tree->capacity_max) capacity = tree->capacity_max;
        sp_header_node *nodes = realloc(tree->nodes, (size_t)capacity * sizeof *nodes);
        if (nodes == NULL) return SP_HEADERS_NO_MEMORY;
        tree->nodes = nodes;
        tree->capacity = (uint32_t)capacity;
    }
    uint32_t slots = tree->table_mask + 1;
    return 2 * (uint64_t)(tree->count + 1) > slots ? grow_table(tree, 2 * slots) : 0;
}

/* --- the tree --- */

sp_header_tree *sp_headers_new(const uint8_t header[80], uint32_t height, const uint8_t work[32],
                               const uint32_t *times, uint32_t times_count, uint32_t capacity_max) {
    sp_header_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL) return NULL;
    /* A table of twice the headers must be countable in 32 bits. */
    tree->capacity_max = capacity_max < 1u << 30 ? capacity_max : 1u << 30;
    if (grow_table(tree, 2048) != 0 || make_room(tree) != 0) {
        sp_headers_free(tree);
        return NULL;
    }
    sp_header_node *root = &tree->nodes[0];
    memset(root, 0, sizeof *root);
    memcpy(root->header, header, 80);
    sp_sha256d(root->hash, header, 80);
    root->height = height;
    for (int i = 0; i < 32; i++) root->work[i / 8] |= (uint64_t)work[i] << (8 * (i % 8));
    tree->times_count = times_count < SP_MEDIAN_SPAN - 1 ? times_count : SP_MEDIAN_SPAN - 1;
    for (uint32_t i = 0; i < tree->times_count; i++) tree->times[i] = times[times_count - 1 - i];
    tree->table[slot_of(tree, root->hash)] = 1;
    tree->count = 1;
    return tree;
}

void sp_headers_free(sp_header_tree *tree) {
    if (tree == NULL) return;
    free(tree->nodes);
    free(tree->table);
    free(tree);
}

uint32_t sp_headers_count(const sp_header_tree *tree) { return tree->count; }

uint32_t sp_headers_best(const sp_header_tree *tree) { return tree->best; }

const sp_header_node *sp_headers_at(const sp_header_tree *tree, uint32_t index) {
    return &tree->nodes[index];
}

int64_t sp_headers_find(const sp_header_tree *tree, const uint8_t hash[32]) {
    uint32_t entry = tree->table[slot_of(tree, hash)];
    return entry != 0 ? (int64_t)entry - 1 : SP_HEADERS_UNKNOWN;
}

/* link_node: jump as far as the parent jumps twice where those two jumps are equally long, else to
 * the parent: the shape of a skew-binary number, which only the depth decides. */
static void link_node(sp_header_tree *tree, sp_header_node *node, uint32_t parent) {
    const sp_header_node *above = &tree->nodes[parent];
    const sp_header_node *once = &tree->nodes[above->jump];
    const sp_header_node *twice = &tree->nodes[once->jump];
    node->parent = parent;
    node->height = above->height + 1;
    int even = above->height - once->height == once->height - twice->height;
    node->jump = even ? once->jump : parent;
    node->condemned = above->condemned != 0 ? CONDEMNED_BY_ANCESTOR : 0;
    memcpy(node->work, above->work, sizeof node->work);
    if (tree->work_bits != node_bits(node)) {
        tree->work_bits = node_bits(node);
        work_of(tree->work_bits, tree->work);
    }
    add(node->work, tree->work);
}

static void prefer(sp_header_tree *tree, uint32_t index) {
    const sp_header_node *node = &tree->nodes[index];
    if (node->condemned == 0 && compare(node->work, tree->nodes[tree->best].work) > 0)
        tree->best = index;
}

int64_t sp_headers_append(sp_header_tree *tree, const uint8_t header[80]) {
    uint8_t hash[32];
    sp_sha256d(hash, header, 80);
    if (sp_headers_find(tree, hash) >= 0) return SP_HEADERS_KNOWN;
    int64_t parent = sp_headers_find(tree, header + 4);
    if (parent < 0) return SP_HEADERS_UNKNOWN;
    int result = make_room(tree);
    if (result != 0) return result;
    uint32_t index = tree->count;
    sp_header_node *node = &tree->nodes[index];
    memset(node, 0, sizeof *node);
    memcpy(node->header, header, 80);
    memcpy(node->hash, hash, 32);
    link_node(tree, node, (uint32_t)parent);
    tree->table[slot_of(tree, hash)] = index + 1;
    tree->count++;
    prefer(tree, index);
    return index;
}

uint32_t sp_headers_load(sp_header_tree *tree, const uint8_t *headers, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        int64_t index = sp_headers_append(tree, headers + 80 * (size_t)i);
        if (index < 0 && index != SP_HEADERS_KNOWN) return i;
    }
    return count;
}

int64_t sp_headers_ancestor(const sp_header_tree *tree, uint32_t index, uint32_t height) {
    const sp_header_node *nodes = tree->nodes;
    if (height > nodes[index].height || height < nodes[0].height) return SP_HEADERS_UNKNOWN;
    while (nodes[index].height > height) {
        uint32_t jump = nodes[index].jump;
        index = nodes[jump].height >= height ? jump : nodes[index].parent;
    }
    return index;
}

uint32_t sp_headers_fork(const sp_header_tree *tree, uint32_t a, uint32_t b) {
    const sp_header_node *nodes = tree->nodes;
    uint32_t height = nodes[a].height < nodes[b].height ? nodes[a].height : nodes[b].height;
    a = (uint32_t)sp_headers_ancestor(tree, a, height);
    b = (uint32_t)sp_headers_ancestor(tree, b, height);
    /* At the same height both jump to the same height. */
    while (a != b) {
        int apart = nodes[a].jump != nodes[b].jump;
        a = apart ? nodes[a].jump : nodes[a].parent;
        b = apart ? nodes[b].jump : nodes[b].parent;
    }
    return a;
}

uint32_t sp_headers_median_time(const sp_header_tree *tree, uint32_t index) {
    uint32_t sorted[SP_MEDIAN_SPAN], before = 0;
    size_t count = 0;
    for (int at_root = 0; count < SP_MEDIAN_SPAN; count++) {
        if (at_root && before == tree->times_count) break;
        uint32_t time = at_root ? tree->times[before++] : node_time(&tree->nodes[index]);
        size_t place = count;
        for (; place > 0 && sorted[place - 1] > time; place--) sorted[place] = sorted[place - 1];
        sorted[place] = time;
        if (index == 0) at_root = 1;
        index = tree->nodes[index].parent;
    }
    return sorted[count / 2];
}

uint32_t sp_headers_last_real(const sp_header_tree *tree, uint32_t index, uint32_t interval,
                              uint32_t limit_bits) {
    while (index != 0 && tree->nodes[index].height % interval != 0 &&
           node_bits(&tree->nodes[index]) == limit_bits)
        index = tree->nodes[index].parent;
    return index;
}

void sp_headers_copy(const sp_header_tree *tree, uint32_t index, uint32_t count,
                     uint8_t *headers) {
    for (size_t i = count; i-- > 0; index = tree->nodes[index].parent)
        memcpy(headers + 80 * i, tree->nodes[index].header, 80);
}

/* spread: carry condemnation from parents to children, and find the best anew. One
 * pass will do, parents come first. */
static void spread(sp_header_tree *tree) {
    tree->best = 0;
    for (uint32_t i = 1; i < tree->count; i++) {
        sp_header_node *node = &tree->nodes[i];
        node->condemned &= CONDEMNED_ITSELF;
        if (tree->nodes[node->parent].condemned) node->condemned |= CONDEMNED_BY_ANCESTOR;
        prefer(tree, i);
    }
}

void sp_headers_condemn(sp_header_tree *tree, uint32_t index) {
    if (index == 0) return;
    tree->nodes[index].condemned |= CONDEMNED_ITSELF;
    spread(tree);
}

void sp_headers_absolve(sp_header_tree *tree, uint32_t index) {
    for (uint32_t i = tree->count; i-- > index;)
        if (tree->nodes[i].condemned &&
            sp_headers_ancestor(tree, i, tree->nodes[index].height) == (int64_t)index)
            tree->nodes[i].condemned = 0;
    for (uint32_t i = index; i != 0; i = tree->nodes[i].parent) tree->nodes[i].condemned = 0;
    spread(tree);
}
