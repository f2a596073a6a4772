// The kernels of permil.flat.joint; compiled once for each level of instructions.
#include "flat/joint/_kernels/kernels.hpp"

#include "flat/joint/_kernels/averages.hpp"
#include "flat/joint/_kernels/matrix.hpp"
#include "flat/joint/_kernels/signals.hpp"
#include "flat/joint/_kernels/tile.hpp"

namespace permil::joint {

extern const Kernels PERMIL_LEVEL = {predict,      evaluate, profile_response, slopes_along,  add_gradient,
                                     mark_windows, sum_tile, add_blocks,       subtract_rows, mirror_upper,
                                     medians,      divide_blocks, average};

}  // namespace permil::joint
