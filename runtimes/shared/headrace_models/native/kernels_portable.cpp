#include "isa_portable.h"

#include <math.h>

#include "kernels.h"

#include "matmul.inc"
#include "rows.inc"
#include "attention.inc"

namespace headrace {

const Kernels kPortable = {"portable", matmul, row, rms_norm, quantise, gate, rotate, add_row, write_kv, attend};

}  // namespace headrace
