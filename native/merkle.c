/* Bitcoin's merkle tree, grown leaf by leaf. */
#include "merkle.h"

#include <string.h>

#include "sha256.h"

void sp_merkle_begin(sp_merkle *tree) {
    tree->count = 0;
    tree->mutated = 0;
    memset(tree->held, 0, sizeof tree->held);
}

/* lift: hash a level's nodes in pairs onto the level above; an odd one stays. What was lifted before
 * was an even number, so neighbours here are neighbours in the tree. There is room above: a level
 * never stays at SP_MERKLE_WIDTH, and at most half as many are added. */
static void lift(sp_merkle *tree, unsigned level) {
    uint8_t *nodes = tree->nodes[level];
    unsigned pairs = tree->held[level] / 2, odd = tree->held[level] % 2;
    for (unsigned i = 0; i < pairs; i++)
        if (memcmp(nodes + 64 * i, nodes + 64 * i + 32, 32) == 0) tree->mutated = 1;
    sp_sha256d_pairs(tree->nodes[level + 1] + 32 * (size_t)tree->held[level + 1], nodes, pairs);
    tree->held[level + 1] = (uint8_t)(tree->held[level + 1] + pairs);
    if (odd) memmove(nodes, nodes + 64 * (size_t)pairs, 32);
    tree->held[level] = (uint8_t)odd;
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

void sp_merkle_settle(sp_merkle *tree) {
    for (unsigned level = 0; level + 1 < SP_MERKLE_LEVELS; level++)
        if (tree->held[level] >= 2) lift(tree, level);
}

void sp_merkle_finish(sp_merkle *tree, uint8_t root[32]) {
    memset(root, 0, 32);
    if (tree->count == 0) return;
    unsigned level = 0;
    /* `width` is how many nodes this level has had in all; the root stands where it is one. */
    for (uint64_t width = tree->count; width > 1; width = (width + 1) / 2, level++) {
        if (level + 1 >= SP_MERKLE_LEVELS) return;
        lift(tree, level);
        if (tree->held[level] == 0) continue;
        /* Not by lift(): pairing the last node with itself is the rule, not a mutation. */
        memcpy(tree->nodes[level] + 32, tree->nodes[level], 32);
        sp_sha256d_pairs(tree->nodes[level + 1] + 32 * (size_t)tree->held[level + 1],
                         tree->nodes[level], 1);
        tree->held[level + 1]++;
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
