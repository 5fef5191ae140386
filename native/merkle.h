/* merkle.h: Bitcoin's merkle tree, grown leaf by leaf.
 *
 * A level that holds SP_MERKLE_WIDTH nodes is hashed at once, so that variants of SHA-256 with several
 * lanes have work for all. Who waits for more leaves anyway settles the tree meanwhile: then what is
 * left after the last leaf is one node a level, the logarithm of their number. No allocation. */
#ifndef SP_MERKLE_H
#define SP_MERKLE_H

#include <stddef.h>
#include <stdint.h>

#define SP_MERKLE_WIDTH 32u
#define SP_MERKLE_ROOM (SP_MERKLE_WIDTH + 8u) /* merkle.c says why 3 more would do */
#define SP_MERKLE_LEVELS 26u /* 2^25 leaves, the longest vector of Bitcoin's serialization */

typedef struct sp_merkle {
    uint64_t count; /* leaves pushed */
    uint8_t mutated; /* CVE-2012-2459: two equal nodes side by side under one parent */
    uint8_t held[SP_MERKLE_LEVELS];
    uint8_t nodes[SP_MERKLE_LEVELS][SP_MERKLE_ROOM * 32];
} sp_merkle;

/* sp_merkle_begin: an empty tree. Leaves `nodes` as they are. */
void sp_merkle_begin(sp_merkle *tree);

/* sp_merkle_push: one more leaf, at most 2^25 of them; later ones are counted and ignored. */
void sp_merkle_push(sp_merkle *tree, const uint8_t leaf[32]);

/* sp_merkle_settle: hash every pair there is; no level holds more than one node then. */
void sp_merkle_settle(sp_merkle *tree);

/* sp_merkle_finish: the root (zeros for no leaf) into `root`; the tree is used up. An odd level's
 * last node is paired with itself, which does not count as mutation. */
void sp_merkle_finish(sp_merkle *tree, uint8_t root[32]);

/* sp_merkle_root: the root over `count` leaves of 32 bytes each. Returns 1 where two equal nodes
 * stand side by side, else 0. */
int sp_merkle_root(const uint8_t *leaves, size_t count, uint8_t root[32]);

#endif /* SP_MERKLE_H */
