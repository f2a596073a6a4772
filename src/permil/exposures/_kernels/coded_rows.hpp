// Coded rows of several files, as kernels take them.
#pragma once
#include <cstdint>

namespace permil::exposures {

/// Some rows of the same segments of several files; see permil.exposures.segment_rows.CodedRows.
struct CodedRows {
  const uint8_t* octets;          // from a multiple of 4 on, a multiple of 4 in number
  int64_t n_octets;
  int64_t n_files, n_segments, n_rows;
  const int64_t *starts, *stops;  // [file, segment, row]
  const int64_t *block, *pixel_bytes, *zero;  // [file, segment]
};

}  // namespace permil::exposures
