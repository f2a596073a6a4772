// The kernels of permil.flat; compiled once for each level of instructions.
#include "flat/_kernels/kernels.hpp"

#include "flat/_kernels/blocks.hpp"
#include "flat/_kernels/lattice.hpp"
#include "flat/_kernels/outliers.hpp"
#include "flat/_kernels/pointing.hpp"

namespace permil::flat {

extern const Kernels PERMIL_LEVEL = {divide,           fill_weights,      add_pointing,    flag_outliers, interpolate,
                                     add_image<float>, add_image<double>, add_image<uint8_t>, add_to_cells};

}  // namespace permil::flat
