/* publisher.c: the writing types. Publisher is the base of Writer. */
#include "hot.h"

#define PARTS_ON_STACK 16
#define RELEASES_GIL_BYTES 65536u /* a shorter copy is over before the GIL would have changed hands */

static PyTypeObject *publisher_type;

typedef struct {
    PyObject_HEAD
    PyObject *keeper; /* what owns the C writer */
    sp_writer *writer; /* NULL: closed */
} Publisher;

static PyObject *publish_parts(Publisher *self, const sp_meta *meta, const sp_part *parts,
                               Py_ssize_t count)
{
    uint64_t bytes = 0;
    int64_t sequence;
    /* Looked at here, not before: taking the arguments may have run Python code that closed us. */
    if (self->writer == NULL)
        return hot_failed((PyObject *)self, SP_E_CLOSED);
    for (Py_ssize_t at = 0; at < count; at++)
        bytes += parts[at].length;
    if (bytes < RELEASES_GIL_BYTES) {
        sequence = hot_core_publish(self->writer, meta, parts, (uint64_t)count);
    } else {
        Py_BEGIN_ALLOW_THREADS
        sequence = hot_core_publish(self->writer, meta, parts, (uint64_t)count);
        Py_END_ALLOW_THREADS
    }
    return sequence < 0 ? hot_failed((PyObject *)self, sequence) : PyLong_FromLongLong(sequence);
}

static PyObject *publish_buffers(Publisher *self, const sp_meta *meta, PyObject *pieces,
                                 Py_buffer *views, sp_part *parts, Py_ssize_t count)
{
    PyObject *sequence = NULL;
    Py_ssize_t taken = 0;
    for (; taken < count; taken++) {
        PyObject *piece = pieces == NULL ? NULL : PySequence_GetItem(pieces, taken);
        if (piece == NULL)
            break;
        int code = PyObject_GetBuffer(piece, &views[taken], PyBUF_SIMPLE);
        Py_DECREF(piece); /* the view holds it */
        if (code < 0)
            break;
        parts[taken] = (sp_part){views[taken].buf, (uint64_t)views[taken].len};
    }
    if (taken == count)
        sequence = publish_parts(self, meta, parts, count);
    while (taken > 0)
        PyBuffer_Release(&views[--taken]);
    return sequence;
}

static PyObject *publish_gathered(Publisher *self, const sp_meta *meta, PyObject *pieces)
{
    Py_buffer few_views[PARTS_ON_STACK];
    sp_part few_parts[PARTS_ON_STACK];
    Py_ssize_t count = PySequence_Size(pieces);
    if (count < 0)
        return NULL;
    if (count <= PARTS_ON_STACK)
        return publish_buffers(self, meta, pieces, few_views, few_parts, count);
    Py_buffer *views = PyMem_Malloc((size_t)count * sizeof *views);
    sp_part *parts = PyMem_Malloc((size_t)count * sizeof *parts);
    PyObject *sequence = NULL;
    if (views != NULL && parts != NULL)
        sequence = publish_buffers(self, meta, pieces, views, parts, count);
    else
        PyErr_NoMemory();
    PyMem_Free(views);
    PyMem_Free(parts);
    return sequence;
}

static PyObject *publisher_publish(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                                   PyObject *names)
{
    Publisher *self = (Publisher *)object;
    sp_meta meta;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "publish(kind, payload, *, hash, level, ...)");
        return NULL;
    }
    if (hot_describe(arguments[0], arguments + count, names, &meta) < 0)
        return NULL;
    if (!PyObject_CheckBuffer(arguments[1]))
        return publish_gathered(self, &meta, arguments[1]);
    Py_buffer view;
    if (PyObject_GetBuffer(arguments[1], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    sp_part part = {view.buf, (uint64_t)view.len};
    PyObject *sequence = publish_parts(self, &meta, &part, 1);
    PyBuffer_Release(&view);
    return sequence;
}

/* _aim(keeper, address): publish through the C writer at address, which keeper owns; 0: closed. */
static PyObject *publisher_aim(PyObject *object, PyObject *arguments)
{
    Publisher *self = (Publisher *)object;
    PyObject *keeper;
    unsigned long long address;
    if (!PyArg_ParseTuple(arguments, "OK", &keeper, &address))
        return NULL;
    PyObject *old = self->keeper;
    Py_INCREF(keeper);
    self->keeper = keeper;
    self->writer = (sp_writer *)(uintptr_t)address;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static void publisher_free(PyObject *object)
{
    Py_XDECREF(((Publisher *)object)->keeper);
    hot_free(object);
}

/* Committer: the base of Reservation. */
typedef struct {
    PyObject_HEAD
    Publisher *publisher;
    PyObject *keeper; /* what owns the C reservation */
    sp_reservation *reservation;
} Committer;

static PyObject *committer_commit(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                                  PyObject *names)
{
    Committer *self = (Committer *)object;
    sp_meta meta;
    if (count != 1) {
        PyErr_SetString(PyExc_TypeError, "commit(kind, *, hash, level, ...)");
        return NULL;
    }
    if (hot_describe(arguments[0], arguments + count, names, &meta) < 0)
        return NULL;
    if (self->publisher == NULL || self->publisher->writer == NULL)
        return hot_failed(object, SP_E_CLOSED);
    int64_t sequence = hot_core_commit(self->reservation, &meta);
    return sequence < 0 ? hot_failed(object, sequence) : PyLong_FromLongLong(sequence);
}

/* _aim(publisher, keeper, address): commit the C reservation at address, which keeper owns. */
static PyObject *committer_aim(PyObject *object, PyObject *arguments)
{
    Committer *self = (Committer *)object;
    PyObject *publisher, *keeper;
    unsigned long long address;
    if (!PyArg_ParseTuple(arguments, "O!OK", publisher_type, &publisher, &keeper, &address))
        return NULL;
    if (self->publisher != NULL || address == 0) {
        PyErr_SetString(PyExc_ValueError, "aimed twice, or at nothing");
        return NULL;
    }
    Py_INCREF(publisher);
    Py_INCREF(keeper);
    self->publisher = (Publisher *)publisher;
    self->keeper = keeper;
    self->reservation = (sp_reservation *)(uintptr_t)address;
    Py_RETURN_NONE;
}

static void committer_free(PyObject *object)
{
    /* The reservation first: giving it up takes it out of its writer's table. */
    Py_XDECREF(((Committer *)object)->keeper);
    Py_XDECREF((PyObject *)((Committer *)object)->publisher);
    hot_free(object);
}

static PyMethodDef publisher_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))publisher_publish, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_aim", publisher_aim, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyType_Slot publisher_slots[] = {{Py_tp_methods, publisher_methods},
                                        {Py_tp_dealloc, (void *)publisher_free},
                                        {0, NULL}};
static PyType_Spec publisher_spec = {.name = "bitcoin_sprint._hot.Publisher",
                                     .basicsize = sizeof(Publisher),
                                     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                     .slots = publisher_slots};

static PyMethodDef committer_methods[] = {
    {"commit", (PyCFunction)(void (*)(void))committer_commit, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_aim", committer_aim, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};
static PyType_Slot committer_slots[] = {{Py_tp_methods, committer_methods},
                                        {Py_tp_dealloc, (void *)committer_free},
                                        {0, NULL}};
static PyType_Spec committer_spec = {.name = "bitcoin_sprint._hot.Committer",
                                     .basicsize = sizeof(Committer),
                                     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                     .slots = committer_slots};

int hot_add_writing(PyObject *module)
{
    publisher_type = (PyTypeObject *)PyType_FromSpec(&publisher_spec);
    if (publisher_type == NULL || PyModule_AddType(module, publisher_type) < 0)
        return -1;
    PyObject *committer = PyType_FromSpec(&committer_spec);
    if (committer == NULL)
        return -1;
    int code = PyModule_AddType(module, (PyTypeObject *)committer);
    Py_DECREF(committer);
    return code;
}
