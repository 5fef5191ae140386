/* The words of refusals. */
#include "refusal.h"

#define SP_REFUSAL_CASE(name, code, word) \
    case name: return word;

const char *sp_refusal_word(int code) {
    switch (code) {
        SP_REFUSALS(SP_REFUSAL_CASE)
        default: return "unknown-refusal";
    }
}
