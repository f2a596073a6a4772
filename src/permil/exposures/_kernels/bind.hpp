// Coded rows as they come from Python.
#pragma once
#include "_kernels/arrays.hpp"
#include "exposures/_kernels/coded_rows.hpp"

namespace permil::exposures {

/// Coded rows, and the arrays that they lie in.
struct CodedArrays {
  Array<const uint8_t, 1> octets;
  Array<const int64_t, 3> starts, stops;
  Array<const int64_t, 2> block, pixel_bytes, zero;

  CodedRows rows() const;
};

/// Return the arrays of a permil.exposures.segment_rows.CodedRows for rows of some pixels.
///
/// Raises TypeError for arrays of another kind, ValueError where rows would be read outside their bytes.
CodedArrays coded_arrays(nb::handle coded, int64_t width);

}  // namespace permil::exposures
