/* cursor.c: the reading types. A Frame is a private copy of a descriptor, and the payload where it
 * lies. */
#include "hot.h"

#define SLICE_NS INT64_C(50000000) /* longest stay in C, so that signal handlers run */

static PyTypeObject *frame_type;

typedef struct {
    PyObject_HEAD
    PyObject *ring; /* the Python Ring; the mapping lives as long */
    sp_ring *mapped;
    sp_frame frame;
} Frame;

static int frame_buffer(PyObject *object, Py_buffer *view, int flags)
{
    Frame *self = (Frame *)object;
    return PyBuffer_FillInfo(view, object, (void *)(uintptr_t)self->frame.payload,
                             (Py_ssize_t)self->frame.descriptor.length, 1, flags);
}

static PyObject *frame_payload(PyObject *object, void *closure)
{
    (void)closure;
    return PyMemoryView_FromObject(object);
}

static PyObject *frame_hash(PyObject *object, void *closure)
{
    (void)closure;
    const sp_descriptor *descriptor = &((Frame *)object)->frame.descriptor;
    return PyBytes_FromStringAndSize((const char *)descriptor->hash, sizeof descriptor->hash);
}

static PyObject *frame_descriptor(PyObject *object, void *closure)
{
    (void)closure;
    const sp_descriptor *descriptor = &((Frame *)object)->frame.descriptor;
    return PyBytes_FromStringAndSize((const char *)descriptor, sizeof *descriptor);
}

static PyObject *frame_valid(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    Frame *self = (Frame *)object;
    return PyBool_FromLong(sp_frame_valid(self->mapped, &self->frame));
}

static void frame_free(PyObject *object)
{
    Py_XDECREF(((Frame *)object)->ring);
    hot_free(object);
}

/* Cursor: the base of Reader. */
typedef struct {
    PyObject_HEAD
    PyObject *ring;   /* the Python Ring, for the frames */
    PyObject *keeper; /* what owns the C reader */
    PyObject *frame_class;
    sp_reader *reader; /* NULL: closed */
} Cursor;

static PyObject *deliver(Cursor *self, const sp_frame *found)
{
    Frame *frame = (Frame *)PyType_GenericAlloc((PyTypeObject *)self->frame_class, 0);
    if (frame == NULL)
        return NULL;
    Py_INCREF(self->ring);
    frame->ring = self->ring;
    frame->mapped = self->reader->ring;
    frame->frame = *found;
    return (PyObject *)frame;
}

static PyObject *cursor_poll(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    Cursor *self = (Cursor *)object;
    sp_frame found;
    if (self->reader == NULL)
        return hot_failed(object, SP_E_CLOSED);
    int code = sp_poll(self->reader, &found);
    if (code == SP_FRAME)
        return deliver(self, &found);
    if (code < 0)
        return hot_failed(object, code);
    Py_RETURN_NONE;
}

/* Nanoseconds of a timeout in seconds, -1 for None; -2 with an exception. */
static int64_t timeout_of(PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (count + named > 1 ||
        (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "timeout"))) {
        PyErr_SetString(PyExc_TypeError, "wait(timeout=None)");
        return -2;
    }
    if (count + named == 0 || arguments[0] == Py_None)
        return -1;
    double seconds = PyFloat_AsDouble(arguments[0]);
    if (seconds == -1.0 && PyErr_Occurred())
        return -2;
    if (!(seconds > 0))
        return 0;
    return seconds > 1e9 ? -1 : (int64_t)(seconds * 1e9);
}

static PyObject *cursor_wait(PyObject *object, PyObject *const *arguments, Py_ssize_t count,
                             PyObject *names)
{
    Cursor *self = (Cursor *)object;
    sp_frame found;
    int64_t left = timeout_of(arguments, count, names);
    if (left == -2)
        return NULL;
    if (self->reader == NULL)
        return hot_failed(object, SP_E_CLOSED);
    int code = sp_poll(self->reader, &found);
    uint64_t started = left > 0 ? sp_clock_ns(CLOCK_MONOTONIC) : 0;
    int64_t span = left;
    PyObject *keeper = self->keeper; /* a close meanwhile must not free what C waits on */
    Py_INCREF(keeper);
    while (code == SP_OK && span != 0) {
        sp_reader *reader = self->reader;
        if (reader == NULL) {
            code = SP_E_CLOSED;
            break;
        }
        Py_BEGIN_ALLOW_THREADS
        code = sp_wait(reader, &found, span < 0 || span > SLICE_NS ? SLICE_NS : span);
        Py_END_ALLOW_THREADS
        if (code != SP_OK)
            break;
        if (PyErr_CheckSignals() < 0) {
            Py_DECREF(keeper);
            return NULL;
        }
        if (left > 0) {
            span = left - (int64_t)(sp_clock_ns(CLOCK_MONOTONIC) - started);
            span = span > 0 ? span : 0;
        }
    }
    PyObject *outcome = Py_None;
    if (code == SP_FRAME && self->reader != NULL)
        outcome = deliver(self, &found);
    else if (code != SP_OK)
        outcome = hot_failed(object, code < 0 ? code : SP_E_CLOSED);
    else
        Py_INCREF(outcome);
    Py_DECREF(keeper);
    return outcome;
}

/* _aim(ring, keeper, address, frame_class): read by the C reader at address, which keeper owns. */
static PyObject *cursor_aim(PyObject *object, PyObject *arguments)
{
    Cursor *self = (Cursor *)object;
    PyObject *ring, *keeper, *frame_class;
    unsigned long long address;
    if (!PyArg_ParseTuple(arguments, "OOKO", &ring, &keeper, &address, &frame_class))
        return NULL;
    if (self->ring != NULL || address == 0) {
        PyErr_SetString(PyExc_ValueError, "aimed twice, or at nothing");
        return NULL;
    }
    if (!PyType_Check(frame_class) || !PyType_IsSubtype((PyTypeObject *)frame_class, frame_type)) {
        PyErr_SetString(PyExc_TypeError, "frame_class has to derive from Frame");
        return NULL;
    }
    Py_INCREF(ring);
    Py_INCREF(keeper);
    Py_INCREF(frame_class);
    self->ring = ring;
    self->keeper = keeper;
    self->frame_class = frame_class;
    self->reader = (sp_reader *)(uintptr_t)address;
    Py_RETURN_NONE;
}

static PyObject *cursor_stop(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    ((Cursor *)object)->reader = NULL;
    Py_RETURN_NONE;
}

static void cursor_free(PyObject *object)
{
    Cursor *self = (Cursor *)object;
    Py_XDECREF(self->ring);
    Py_XDECREF(self->keeper);
    Py_XDECREF(self->frame_class);
    hot_free(object);
}

#define FIELD(name, type, field, text)                                                             \
    {name, type, (Py_ssize_t)(offsetof(Frame, frame) + offsetof(sp_frame, descriptor) +            \
                              offsetof(sp_descriptor, field)), READONLY, text}

static PyMemberDef frame_members[] = {
    {"ring", T_OBJECT_EX, offsetof(Frame, ring), READONLY, "The Ring that it was read from."},
    FIELD("sequence", T_ULONGLONG, seq, "The first frame of a session has 1."),
    FIELD("position", T_ULONGLONG, position,
          "Absolute place in the arena; frames may lie there in another order than their numbers."),
    FIELD("length", T_UINT, length, "Bytes of the payload."),
    FIELD("crc32c", T_UINT, crc32c, "CRC32C of the payload, as the writer reckoned it."),
    FIELD("kind", T_UBYTE, kind, "A frames.Kind."),
    FIELD("chain", T_UBYTE, chain, "A frames.Chain."),
    FIELD("level", T_UBYTE, level, "A frames.Level."),
    FIELD("flags", T_UINT, flags, "frames.Flag bits."),
    FIELD("height", T_INT, height, "-1: not known."),
    FIELD("source", T_USHORT, source, "Index into the source table; Ring.source_name has the name."),
    FIELD("publish_ns", T_ULONGLONG, publish_ns, "CLOCK_REALTIME when it was published."),
    FIELD("origin_ns", T_ULONGLONG, origin_ns,
          "CLOCK_REALTIME when the sender says it was made, 0: not known."),
    FIELD("first_byte_ns", T_ULONGLONG, first_byte_ns,
          "CLOCK_REALTIME when its first byte arrived, 0: not known."),
    FIELD("last_byte_ns", T_ULONGLONG, last_byte_ns,
          "CLOCK_REALTIME when its last byte arrived, 0: not known."),
    FIELD("stamp_ns", T_ULONGLONG, stamp_ns,
          "CLOCK_MONOTONIC at publication, strictly increasing over both rings of an instance."),
    {NULL, 0, 0, 0, NULL}};
static PyGetSetDef frame_properties[] = {
    {"payload", frame_payload, NULL, "The payload in the ring, read-only, not copied.", NULL},
    {"hash", frame_hash, NULL, "Block hash or txid, 32 bytes in internal order.", NULL},
    {"descriptor", frame_descriptor, NULL, "All fields as 128 bytes, see layout.DESCRIPTOR.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef frame_methods[] = {
    {"valid", frame_valid, METH_NOARGS,
     "Whether everything read from the payload before this call was whole."},
    {NULL, NULL, 0, NULL}};
static PyType_Slot frame_slots[] = {{Py_tp_members, frame_members},
                                    {Py_tp_getset, frame_properties},
                                    {Py_tp_methods, frame_methods},
                                    {Py_bf_getbuffer, (void *)frame_buffer},
                                    {Py_tp_dealloc, (void *)frame_free},
                                    {0, NULL}};
static PyType_Spec frame_spec = {.name = "bitcoin_sprint._hot.Frame",
                                 .basicsize = sizeof(Frame),
                                 .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE |
                                          Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                 .slots = frame_slots};

static PyMethodDef cursor_methods[] = {
    {"poll", cursor_poll, METH_NOARGS, NULL},
    {"wait", (PyCFunction)(void (*)(void))cursor_wait, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"_aim", cursor_aim, METH_VARARGS, NULL},
    {"_stop", cursor_stop, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL}, /* Cursor[Frame], for types */
    {NULL, NULL, 0, NULL}};
static PyType_Slot cursor_slots[] = {{Py_tp_methods, cursor_methods},
                                     {Py_tp_dealloc, (void *)cursor_free},
                                     {0, NULL}};
static PyType_Spec cursor_spec = {.name = "bitcoin_sprint._hot.Cursor",
                                  .basicsize = sizeof(Cursor),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                  .slots = cursor_slots};

int hot_add_reading(PyObject *module)
{
    frame_type = (PyTypeObject *)PyType_FromSpec(&frame_spec);
    if (frame_type == NULL || PyModule_AddType(module, frame_type) < 0)
        return -1;
    PyObject *cursor = PyType_FromSpec(&cursor_spec);
    if (cursor == NULL)
        return -1;
    int code = PyModule_AddType(module, (PyTypeObject *)cursor);
    Py_DECREF(cursor);
    return code;
}
