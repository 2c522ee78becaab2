// Prints where things lie in one version of CPython as a Rust table, from that version's own headers:
//
//     cc -w -I INCLUDE -I INCLUDE/internal print.c -o print && ./print > tables/v3_12_1.rs
//
// where INCLUDE is the directory that holds that version's Python.h (a development package or an installation has it).
// Then name the new file in tables.rs. A test does the same for every version that is installed and compares.

#define Py_BUILD_CORE 1
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "Python.h"
#include "frameobject.h"
#if PY_VERSION_HEX < 0x03090000
#include "code.h"
#include "internal/pycore_pystate.h"
#else
#include "internal/pycore_interp.h"
#include "internal/pycore_runtime.h"
#endif
#if PY_VERSION_HEX >= 0x030B0000
#include "internal/pycore_frame.h"
#endif
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe_structs.h"
#endif
#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
#include "internal/pycore_freelist.h"
#endif
#if PY_VERSION_HEX >= 0x030C0000
#include "internal/pycore_obmalloc.h"
#endif

#if PY_VERSION_HEX < 0x030B0000
typedef PyFrameObject Frame;
#else
typedef struct _PyInterpreterFrame Frame;
#endif

#define AT(type, member) ((unsigned long)offsetof(type, member))
#define FIELD(name, value) printf("        %s: %lu,\n", name, (unsigned long)(value))
#define WALK(name, value) printf("            %s: %lu,\n", name, (unsigned long)(value))

static void print_layout(void)
{
    printf("        layout: Layout {\n");
#if PY_VERSION_HEX < 0x030B0000
    printf("            chain: chain::FRAME_OBJECT,\n            entry: entry::EVERY_FRAME,\n");
#elif PY_VERSION_HEX < 0x030C0000
    printf("            chain: chain::CFRAME,\n            entry: entry::FLAG,\n");
#elif PY_VERSION_HEX < 0x030D0000
    printf("            chain: chain::CFRAME,\n            entry: entry::SHIM,\n");
#else
    printf("            chain: chain::CURRENT_FRAME,\n            entry: entry::SHIM,\n");
#endif
    WALK("interpreter_next", AT(PyInterpreterState, next));
#if PY_VERSION_HEX < 0x030B0000
    WALK("interpreter_threads", AT(PyInterpreterState, tstate_head));
#else
    WALK("interpreter_threads", AT(PyInterpreterState, threads.head));
#endif
    WALK("thread_next", AT(PyThreadState, next));
    WALK("thread_id", AT(PyThreadState, thread_id));
#if PY_VERSION_HEX < 0x030B0000
    WALK("thread_frame", AT(PyThreadState, frame));
    WALK("cframe_frame", 0);
    WALK("frame_bytes", AT(Frame, f_lineno) + 4);
    WALK("frame_code", AT(Frame, f_code));
    WALK("code_tag", 0);
    WALK("frame_previous", AT(Frame, f_back));
    WALK("frame_instruction", AT(Frame, f_lasti));
    WALK("instruction_scale", PY_VERSION_HEX < 0x030A0000 ? 1 : 2);
    WALK("frame_owner", 0);
    WALK("frame_is_entry", 0);
    WALK("generator_owner", 0);
    printf("            shim_owner: u32::MAX,\n");
#else
#if PY_VERSION_HEX < 0x030D0000
    WALK("thread_frame", AT(PyThreadState, cframe));
    WALK("cframe_frame", AT(_PyCFrame, current_frame));
    WALK("frame_bytes", sizeof(Frame));
    WALK("frame_code", AT(Frame, f_code));
    WALK("code_tag", 0);
    WALK("frame_previous", AT(Frame, previous));
    WALK("frame_instruction", AT(Frame, prev_instr));
#else
    WALK("thread_frame", AT(PyThreadState, current_frame));
    WALK("cframe_frame", 0);
    WALK("frame_bytes", sizeof(Frame));
    WALK("frame_code", AT(Frame, f_executable));
    WALK("code_tag", PY_VERSION_HEX < 0x030E0000 ? 0 : 3);
    WALK("frame_previous", AT(Frame, previous));
    WALK("frame_instruction", AT(Frame, instr_ptr));
#endif
    WALK("instruction_scale", 1);
    WALK("frame_owner", AT(Frame, owner));
#if PY_VERSION_HEX < 0x030C0000
    WALK("frame_is_entry", AT(Frame, is_entry));
    WALK("generator_owner", FRAME_OWNED_BY_GENERATOR);
    printf("            shim_owner: u32::MAX,\n");
#elif PY_VERSION_HEX < 0x030E0000
    WALK("frame_is_entry", 0);
    WALK("generator_owner", FRAME_OWNED_BY_GENERATOR);
    WALK("shim_owner", FRAME_OWNED_BY_CSTACK);
#else
    WALK("frame_is_entry", 0);
    WALK("generator_owner", FRAME_OWNED_BY_GENERATOR);
    WALK("shim_owner", FRAME_OWNED_BY_INTERPRETER);
#endif
#endif
    WALK("code_flags", AT(PyCodeObject, co_flags));
    WALK("code_first_line", AT(PyCodeObject, co_firstlineno));
    WALK("code_name", AT(PyCodeObject, co_name));
    WALK("code_file", AT(PyCodeObject, co_filename));
#if PY_VERSION_HEX < 0x030B0000
    WALK("code_first_traceable", 0);
    WALK("code_instructions", 0);
#else
    WALK("code_first_traceable", AT(PyCodeObject, _co_firsttraceable));
    WALK("code_instructions", AT(PyCodeObject, co_code_adaptive));
#endif
    printf("        },\n");
}

static void print_runtime(void)
{
    FIELD("runtime_size", sizeof(_PyRuntimeState));
    FIELD("interpreter_size", sizeof(PyInterpreterState));
    FIELD("thread_size", sizeof(PyThreadState));
    FIELD("initialized", AT(_PyRuntimeState, initialized));
    FIELD("interpreters_head", AT(_PyRuntimeState, interpreters.head));
    FIELD("interpreters_main", AT(_PyRuntimeState, interpreters.main));
    FIELD("interpreter_id", AT(PyInterpreterState, id));
    FIELD("thread_interp", AT(PyThreadState, interp));
#if PY_VERSION_HEX < 0x030C0000
    FIELD("tstate_current", AT(_PyRuntimeState, gilstate.tstate_current));
    FIELD("gil_holder", 0);
    FIELD("allocators", 0);
#else
    FIELD("tstate_current", 0);
    FIELD("gil_holder", AT(PyInterpreterState, _gil.last_holder));
    FIELD("allocators", AT(_PyRuntimeState, allocators.standard.raw));
#endif
}

static void print_objects(void)
{
#if PY_VERSION_HEX < 0x030B0000
    FIELD("code_qualname", 0);
    FIELD("code_bytes", AT(PyCodeObject, co_code));
#else
    FIELD("code_qualname", AT(PyCodeObject, co_qualname));
    FIELD("code_bytes", 0);
#endif
#if PY_VERSION_HEX < 0x030A0000
    FIELD("code_line_table", AT(PyCodeObject, co_lnotab));
#else
    FIELD("code_line_table", AT(PyCodeObject, co_linetable));
#endif
    FIELD("ascii_size", sizeof(PyASCIIObject));
    FIELD("compact_size", sizeof(PyCompactUnicodeObject));
    FIELD("unicode_length", AT(PyASCIIObject, length));
    FIELD("unicode_state", AT(PyASCIIObject, state));
    FIELD("bytes_size", AT(PyBytesObject, ob_base.ob_size));
    FIELD("bytes_data", AT(PyBytesObject, ob_sval));
}

static void print_free_lists(void)
{
    printf("        free_lists: FreeLists {\n");
#if PY_VERSION_HEX < 0x030A0000
    WALK("float_head", 0), WALK("float_count", 0);
    WALK("tuple_heads", 0), WALK("tuple_counts", 0), WALK("tuple_lists", 0), WALK("tuple_first", 0);
    WALK("uniform", 0), WALK("uniform_lists", 0);
#elif PY_VERSION_HEX < 0x030E0000
#if PY_VERSION_HEX < 0x030D0000
#define FLOATS(member) AT(PyInterpreterState, float_state.member)
#define FLOAT_HEAD FLOATS(free_list)
#define TUPLES(member) AT(PyInterpreterState, tuple.member)
#define TUPLE_HEADS TUPLES(free_list)
#define TUPLE_LISTS (sizeof(((PyInterpreterState *)0)->tuple.free_list) / sizeof(void *))
#else
#define FLOATS(member) AT(PyInterpreterState, object_state.freelists.floats.member)
#define FLOAT_HEAD FLOATS(items)
#define TUPLES(member) AT(PyInterpreterState, object_state.freelists.tuples.member)
#define TUPLE_HEADS TUPLES(items)
#define TUPLE_LISTS (sizeof(((PyInterpreterState *)0)->object_state.freelists.tuples.items) / sizeof(void *))
#endif
    WALK("float_head", FLOAT_HEAD), WALK("float_count", FLOATS(numfree));
    WALK("tuple_heads", TUPLE_HEADS), WALK("tuple_counts", TUPLES(numfree)), WALK("tuple_lists", TUPLE_LISTS);
    WALK("tuple_first", PY_VERSION_HEX < 0x030B0000 ? 0 : 1);
    WALK("uniform", 0), WALK("uniform_lists", 0);
#else
    WALK("float_head", 0), WALK("float_count", 0);
    WALK("tuple_heads", 0), WALK("tuple_counts", 0), WALK("tuple_lists", 0), WALK("tuple_first", 0);
    WALK("uniform", AT(PyInterpreterState, object_state.freelists));
    WALK("uniform_lists", sizeof(struct _Py_freelists) / sizeof(struct _Py_freelist));
#endif
    printf("        },\n");
}

static void print_pools(void)
{
    printf("        pools: Pools {\n");
#if PY_VERSION_HEX < 0x030A0000
    WALK("arena_bytes", 256 << 10);
#else
    WALK("arena_bytes", 1 << 20);
#endif
#if PY_VERSION_HEX < 0x030C0000
    WALK("state", 0), WALK("indirect", 0), WALK("arenas", 0), WALK("arena_count", 0), WALK("large_blocks", 0);
    WALK("leaked_blocks", 0), WALK("features", 0);
#else
    WALK("state", AT(PyInterpreterState, obmalloc));
    WALK("indirect", PY_VERSION_HEX >= 0x030D0000);
    WALK("arenas", AT(struct _obmalloc_state, mgmt.arenas));
    WALK("arena_count", AT(struct _obmalloc_state, mgmt.maxarenas));
    WALK("large_blocks", AT(struct _obmalloc_state, mgmt.raw_allocated_blocks));
    WALK("leaked_blocks", AT(_PyRuntimeState, obmalloc.interpreter_leaks));
    WALK("features", AT(PyInterpreterState, feature_flags));
#endif
    printf("        },\n");
}

int main(void)
{
    printf("//! CPython " PY_VERSION ", printed by `offsets/print.c` from its headers: change nothing here by hand.\n\n");
    printf("use leaktrace_common::python::{Layout, chain, entry};\n\n");
    printf("use super::super::{FreeLists, Offsets, Pools, Table};\nuse crate::python::Version;\n\n");
    printf("/// Where things lie in " PY_VERSION ".\npub const TABLE: Table = Table {\n");
    printf("    version: Version { major: %d, minor: %d, micro: %d },\n", PY_MAJOR_VERSION, PY_MINOR_VERSION, PY_MICRO_VERSION);
    printf("    offsets: Offsets {\n");
    print_layout();
    print_runtime();
    print_objects();
    FIELD("pool_bytes", PY_VERSION_HEX < 0x030A0000 ? 4 << 10 : 16 << 10);
    print_free_lists();
    print_pools();
    printf("    },\n};\n");
    return 0;
}
