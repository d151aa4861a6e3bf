#include "isa_avx512.h"

#include <math.h>

#include "kernels.h"

#include "matmul.inc"
#include "rows.inc"
#include "attention.inc"

namespace headrace {

const Kernels kAvx512 = {"avx512", matmul, row, rms_norm, quantise, gate, rotate, add_row, write_kv, attend};

}  // namespace headrace
