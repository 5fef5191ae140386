/* Bitcoin's merkle tree, grown leaf by leaf. */
#include "merkle.h"

#include <string.h>

#include "sha256.h"

void sp_merkle_begin(sp_merkle *tree) {
    tree->count = 0;
    tree->mutated = 0;
    memset(tree->held, 0, sizeof tree->held);
}

/* lift: hash a level's nodes, an even number, in pairs onto the level above. Room up there is the
 * caller's promise: a level is lifted as soon as it is full, and half a level is an even number. */
static void lift(sp_merkle *tree, unsigned level) {
    uint8_t *nodes = tree->nodes[level];
    unsigned pairs = tree->held[level] / 2;
    for (unsigned i = 0; i < pairs; i++)
        if (memcmp(nodes + 64 * i, nodes + 64 * i + 32, 32) == 0) tree->mutated = 1;
    sp_sha256d_pairs(tree->nodes[level + 1] + 32 * (size_t)tree->held[level + 1], nodes, pairs);
    tree->held[level + 1] = (uint8_t)(tree->held[level + 1] + pairs);
    tree->held[level] = 0;
}

void sp_merkle_push(sp_merkle *tree, const uint8_t leaf[32]) {
    if (tree->count++ >= UINT64_C(1) << (SP_MERKLE_LEVELS - 1)) return;
    memcpy(tree->nodes[0] + 32 * (size_t)tree->held[0], leaf, 32);
    tree->held[0]++;
    for (unsigned level = 0; level + 1 < SP_MERKLE_LEVELS; level++) {
        if (tree->held[level] < SP_MERKLE_WIDTH) return;
        lift(tree, level);
    }
}

void sp_merkle_finish(sp_merkle *tree, uint8_t root[32]) {
    memset(root, 0, 32);
    if (tree->count == 0) return;
    unsigned level = 0;
    /* `width` is how many nodes this level has had in all; the root stands where it is one. */
    for (uint64_t width = tree->count; width > 1; width = (width + 1) / 2, level++) {
        if (level + 1 >= SP_MERKLE_LEVELS) return;
        unsigned held = tree->held[level];
        if (held % 2 == 1) {
            memcpy(tree->nodes[level] + 32 * held, tree->nodes[level] + 32 * (held - 1), 32);
            /* Not by lift(): pairing the last node with itself is the rule, not a mutation. */
            tree->held[level] = (uint8_t)(held - 1);
            lift(tree, level);
            sp_sha256d_pairs(tree->nodes[level + 1] + 32 * (size_t)tree->held[level + 1],
                             tree->nodes[level] + 32 * (held - 1), 1);
            tree->held[level + 1]++;
        } else {
            lift(tree, level);
        }
    }
    memcpy(root, tree->nodes[level], 32);
}

int sp_merkle_root(const uint8_t *leaves, size_t count, uint8_t root[32]) {
    sp_merkle tree;
    sp_merkle_begin(&tree);
    for (size_t i = 0; i < count; i++) sp_merkle_push(&tree, leaves + 32 * i);
    sp_merkle_finish(&tree, root);
    return tree.mutated;
}
