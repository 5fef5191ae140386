/* module.c: bitcoin_sprint._hot, see hot.h. */
#include "hot.h"

int64_t (*hot_core_publish)(sp_writer *, const sp_meta *, const sp_part *, uint64_t);
int64_t (*hot_core_commit)(sp_reservation *, const sp_meta *);

PyObject *hot_failed(PyObject *self, int64_t code)
{
    PyObject *nothing = PyObject_CallMethod(self, "_failed", "L", (long long)code);
    if (nothing != NULL) {
        Py_DECREF(nothing);
        PyErr_SetString(PyExc_SystemError, "_failed returned");
    }
    return NULL;
}

void hot_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* connect(publish, commit): addresses of sp_writer_publish and sp_reservation_commit in _native. */
static PyObject *connect(PyObject *module, PyObject *arguments)
{
    (void)module;
    unsigned long long publish, commit;
    if (!PyArg_ParseTuple(arguments, "KK", &publish, &commit))
        return NULL;
    memcpy(&hot_core_publish, &publish, sizeof hot_core_publish);
    memcpy(&hot_core_commit, &commit, sizeof hot_core_commit);
    Py_RETURN_NONE;
}

static int fill(PyObject *module)
{
    return hot_prepare_words() < 0 || hot_add_writing(module) < 0 || hot_add_reading(module) < 0
               ? -1
               : 0;
}

static PyMethodDef functions[] = {{"connect", connect, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                 .m_name = "bitcoin_sprint._hot",
                                 .m_methods = functions,
                                 .m_slots = slots};

PyMODINIT_FUNC PyInit__hot(void)
{
    return PyModuleDef_Init(&definition);
}
