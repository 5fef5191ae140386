/* Bitcoin's merkle tree, grown leaf by leaf. */
#include "merkle.h"

#include <string.h>

#include "sha256.h"

void sp_merkle_begin(sp_merkle *tree) {
    tree->count = 0;
    tree->mutated = 0;
    memset(tree->held, 0, sizeof tree->held);
}

/* hash_pairs: the level's first `pairs` pairs onto the level above.
 *
 * There is room: only the leaves' level grows by one. Each level above starts with one node at most,
 * by settle, and then gets SP_MERKLE_WIDTH / 2 at a time until it is lifted itself: it holds at most
 * one more than that when, by settle or finish, what the level below has left is added. */
static void hash_pairs(sp_merkle *tree, unsigned level, unsigned pairs) {
    uint8_t *above = tree->nodes[level + 1] + 32 * (size_t)tree->held[level + 1];
    sp_sha256d_pairs(above, tree->nodes[level], pairs);
    tree->held[level + 1] = (uint8_t)(tree->held[level + 1] + pairs);
}

/* find_mutation: what was lifted before was an even number, so neighbours here are such in the tree. */
static void find_mutation(sp_merkle *tree, unsigned level) {
    const uint8_t *nodes = tree->nodes[level];
    for (unsigned i = 0; i + 1 < tree->held[level]; i += 2)
        if (memcmp(nodes + 32 * i, nodes + 32 * i + 32, 32) == 0) tree->mutated = 1;
}

/* lift: hash a level's nodes in pairs; an odd one stays. */
static void lift(sp_merkle *tree, unsigned level) {
    unsigned pairs = tree->held[level] / 2, odd = tree->held[level] % 2;
    find_mutation(tree, level);
    hash_pairs(tree, level, pairs);
    if (odd) memmove(tree->nodes[level], tree->nodes[level] + 64 * (size_t)pairs, 32);
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
        unsigned held = tree->held[level];
        find_mutation(tree, level);
        /* Pairing the last node with itself is the rule, not a mutation. */
        if (held % 2 == 1)
            memcpy(tree->nodes[level] + 32 * held, tree->nodes[level] + 32 * (held - 1), 32);
        hash_pairs(tree, level, (held + 1) / 2);
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
