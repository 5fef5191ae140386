/* header_tree.h: every block header that was accepted, as a tree in flat memory.
 *
 * A node is 168 bytes in one array, so that a main chain of a million headers takes 168 MB and no
 * object each; nodes are named by their index, parents come before their children. A node's `jump`
 * is an ancestor chosen so that any ancestor, and the fork of any two nodes, is found in steps of
 * the logarithm of the height (skew-binary jump pointers). Rules are not checked here: the caller
 * has checked a header before it appends it. Not thread-safe. */
#ifndef SP_HEADER_TREE_H
#define SP_HEADER_TREE_H

#include <stddef.h>
#include <stdint.h>

#define SP_MEDIAN_SPAN 11u /* blocks whose median time is the median time past */

enum sp_header_tree_error {
    SP_HEADERS_UNKNOWN = -201,   /* no such hash, height or parent */
    SP_HEADERS_FULL = -202,      /* capacity_max is reached */
    SP_HEADERS_NO_MEMORY = -203,
    SP_HEADERS_KNOWN = -204      /* the hash is there already */
};

typedef struct sp_header_node {
    uint64_t work[4]; /* of the whole chain up to here, 256 bits, least significant word first */
    uint8_t header[80];
    uint8_t hash[32];
    uint32_t parent, jump; /* the root's are its own index */
    uint32_t height;
    uint8_t condemned;     /* by itself: 1; through an ancestor: 2; both: 3 */
    uint8_t reserved[3];
} sp_header_node;

typedef struct sp_header_tree sp_header_tree;

/* sp_headers_new: a tree of one root. `work` is the root's chain work, 32 bytes little-endian;
 * `times`, oldest first, are of up to ten blocks before the root, for medians. NULL: no memory. */
sp_header_tree *sp_headers_new(const uint8_t header[80], uint32_t height, const uint8_t work[32],
                               const uint32_t *times, uint32_t times_count, uint32_t capacity_max);
void sp_headers_free(sp_header_tree *tree);

uint32_t sp_headers_count(const sp_header_tree *tree);

/* sp_headers_best: the node of most work that is not condemned; of equals the first appended. */
uint32_t sp_headers_best(const sp_header_tree *tree);

/* sp_headers_find: index of a hash, or SP_HEADERS_UNKNOWN. */
int64_t sp_headers_find(const sp_header_tree *tree, const uint8_t hash[32]);

/* sp_headers_append: a header whose parent is there. Returns its index or an error. The work of its
 * target is added to its parent's; a target that is none adds nothing. */
int64_t sp_headers_append(sp_header_tree *tree, const uint8_t header[80]);

/* sp_headers_load: append `count` headers in order. Returns how many were (known ones count too);
 * fewer than `count` means that the next one has no parent here or there is no room. */
uint32_t sp_headers_load(sp_header_tree *tree, const uint8_t *headers, uint32_t count);

/* sp_headers_at: a node, valid until the next append or load. `index` is below the count. */
const sp_header_node *sp_headers_at(const sp_header_tree *tree, uint32_t index);

/* sp_headers_ancestor: the ancestor (or itself) of a node at `height`, or SP_HEADERS_UNKNOWN. */
int64_t sp_headers_ancestor(const sp_header_tree *tree, uint32_t index, uint32_t height);

/* sp_headers_fork: last common ancestor of two nodes. */
uint32_t sp_headers_fork(const sp_header_tree *tree, uint32_t a, uint32_t b);

/* sp_headers_median_time: median time past of a node: of its own and up to ten earlier times. */
uint32_t sp_headers_median_time(const sp_header_tree *tree, uint32_t index);

/* sp_headers_last_real: go back from a node while its target is `limit_bits` and its height is no
 * multiple of `interval`; the node where that ends, the root at the latest. */
uint32_t sp_headers_last_real(const sp_header_tree *tree, uint32_t index, uint32_t interval,
                              uint32_t limit_bits);

/* sp_headers_copy: the headers of `count` nodes that end with `index`, oldest first, 80 bytes each.
 * `count` is at most the node's depth in the tree plus 1. */
void sp_headers_copy(const sp_header_tree *tree, uint32_t index, uint32_t count, uint8_t *headers);

/* sp_headers_condemn: mark a node, and all that stand on it, as unfit to be best; or take a mark
 * back from a node and those below and above it. The root can't be condemned. */
void sp_headers_condemn(sp_header_tree *tree, uint32_t index);
void sp_headers_absolve(sp_header_tree *tree, uint32_t index);

#endif /* SP_HEADER_TREE_H */
