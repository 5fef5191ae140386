/* hot.h: the calls that a trading loop makes, as CPython types: bitcoin_sprint._hot.
 *
 * cffi carries everything else. These calls go by CPython's own protocol because at this scale the
 * crossing is the cost: a publish or a look at the ring takes some 100 ns in C, and cffi's argument
 * conversion with a Python frame around it several times as much.
 *
 * Three base types, each subclassed once in ring/: Publisher (Writer), Committer (Reservation) and
 * Cursor (Reader), and the Frame that a Cursor makes. They only call: the protocol stays in sprint.h
 * and ring.c. The writer's functions are those of _native, handed over as addresses, since ring.c has
 * state that exists once a process. Nothing here says for itself what ring/ can say better: negative
 * codes go to the object's own _failed(code), which raises.
 *
 * Limited API of Python 3.11. An object is used by one thread at a time, as its Python class says. */
#ifndef SPRINT_HOT_H
#define SPRINT_HOT_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "ring.h"
#include "sprint.h"

/* The writer's functions in _native; set by connect before anything can be published. */
extern int64_t (*hot_core_publish)(sp_writer *, const sp_meta *, const sp_part *, uint64_t);
extern int64_t (*hot_core_commit)(sp_reservation *, const sp_meta *);

/* hot_failed raises by the object's own _failed(code), which knows what to say. Returns NULL. */
PyObject *hot_failed(PyObject *self, int64_t code);

/* hot_free ends an instance of a heap type; what it referred to was released before. */
void hot_free(PyObject *self);

/* hot_describe puts a frame's kind and the keywords of a fast call (hash, level, height=-1, flags=0,
 * ...) into meta. Returns 0, or -1 with an exception. hot_prepare_words is called once before. */
int hot_describe(PyObject *kind, PyObject *const *values, PyObject *names, sp_meta *meta);
int hot_prepare_words(void);

/* Each makes its types and adds them to the module. 0, or -1 with an exception. */
int hot_add_writing(PyObject *module);
int hot_add_reading(PyObject *module);

#endif /* SPRINT_HOT_H */
