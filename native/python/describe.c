/* describe.c: the keywords of publish and commit. */
#include "hot.h"

enum word { HASH, LEVEL, HEIGHT, FLAGS, CHAIN, SOURCE, ORIGIN_NS, FIRST_BYTE_NS, LAST_BYTE_NS, WORDS };
static const char *const word_texts[WORDS] = {
    "hash", "level", "height", "flags", "chain", "source", "origin_ns", "first_byte_ns",
    "last_byte_ns"};
static PyObject *words[WORDS]; /* interned: a call's keywords are nearly always the same objects */

static int word_of(PyObject *name)
{
    for (int at = 0; at < WORDS; at++)
        if (words[at] == name)
            return at;
    for (int at = 0; at < WORDS; at++)
        if (PyUnicode_CompareWithASCIIString(name, word_texts[at]) == 0)
            return at;
    PyErr_Format(PyExc_TypeError, "unexpected keyword argument %R", name);
    return -1;
}

/* An integer from 0 to most; -1 with an exception otherwise. */
static int unsigned_of(PyObject *value, const char *name, uint64_t most, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(value);
    if (*out == UINT64_MAX && PyErr_Occurred())
        return -1;
    if (*out > most) {
        PyErr_Format(PyExc_OverflowError, "%s %R: 0 to %llu", name, value, (unsigned long long)most);
        return -1;
    }
    return 0;
}

static int put_hash(PyObject *value, sp_meta *meta)
{
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(value, &bytes, &length) < 0)
        return -1;
    if (length != (Py_ssize_t)sizeof meta->hash) {
        PyErr_Format(PyExc_ValueError, "a hash has 32 bytes, not %zd", length);
        return -1;
    }
    memcpy(meta->hash, bytes, sizeof meta->hash);
    return 0;
}

static int put_word(int word, PyObject *value, sp_meta *meta)
{
    static const uint64_t most[WORDS] = {0,          UINT8_MAX,  0,          UINT32_MAX, UINT8_MAX,
                                         UINT16_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    uint64_t number = 0;
    if (word == HASH)
        return put_hash(value, meta);
    if (word == HEIGHT) {
        long height = PyLong_AsLong(value);
        if (height == -1 && PyErr_Occurred())
            return -1;
        if (height < -1 || height > INT32_MAX) {
            PyErr_Format(PyExc_OverflowError, "height %R: -1 to %d", value, INT32_MAX);
            return -1;
        }
        meta->height = (int32_t)height;
        return 0;
    }
    if (unsigned_of(value, word_texts[word], most[word], &number) < 0)
        return -1;
    switch (word) {
    case LEVEL: meta->level = (uint8_t)number; break;
    case FLAGS: meta->flags = (uint32_t)number; break;
    case CHAIN: meta->chain = (uint8_t)number; break;
    case SOURCE: meta->source = (uint16_t)number; break;
    case ORIGIN_NS: meta->origin_ns = number; break;
    case FIRST_BYTE_NS: meta->first_byte_ns = number; break;
    default: meta->last_byte_ns = number; break;
    }
    return 0;
}

int hot_describe(PyObject *kind, PyObject *const *values, PyObject *names, sp_meta *meta)
{
    unsigned given = 0;
    uint64_t number;
    *meta = (sp_meta){.chain = SP_CHAIN_BITCOIN, .height = -1};
    if (unsigned_of(kind, "kind", UINT8_MAX, &number) < 0)
        return -1;
    meta->kind = (uint8_t)number;
    Py_ssize_t count = names == NULL ? 0 : PyTuple_Size(names);
    for (Py_ssize_t at = 0; at < count; at++) {
        int word = word_of(PyTuple_GetItem(names, at));
        if (word < 0 || put_word(word, values[at], meta) < 0)
            return -1;
        given |= 1u << word;
    }
    if ((given & (1u << HASH | 1u << LEVEL)) != (1u << HASH | 1u << LEVEL)) {
        PyErr_SetString(PyExc_TypeError, "hash and level have to be given");
        return -1;
    }
    return 0;
}

int hot_prepare_words(void)
{
    for (int at = 0; at < WORDS; at++)
        if (words[at] == NULL && (words[at] = PyUnicode_InternFromString(word_texts[at])) == NULL)
            return -1;
    return 0;
}
