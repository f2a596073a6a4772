// The kernels of permil.beam; compiled once for each level of instructions.
#include "beam/_kernels/kernels.hpp"

#include "beam/_kernels/spline.hpp"

namespace permil::beam {

extern const Kernels PERMIL_LEVEL = {fill_image, values_at};

}  // namespace permil::beam
