// Rows of raw segments as they are stored: RICE-coded, or plain big-endian integers.
#pragma once
#include "exposures/_kernels/coded_rows.hpp"
#include "exposures/_kernels/rice.hpp"

namespace permil::exposures {
namespace {

/// Read plain big-endian integers; those of 1 byte are unsigned.
inline void read_integers(Span<const uint8_t> octets, int64_t pixel_bytes, Span<int32_t> pixels, int64_t n) {
  for (int64_t x = 0; x < n; ++x) {
    uint32_t pixel = 0;
    for (int64_t octet = 0; octet < pixel_bytes; ++octet) pixel = (pixel << 8) | octets[x * pixel_bytes + octet];
    pixels[x] = pixel_bytes == 2 ? int16_t(pixel) : int32_t(pixel);
  }
}

/// Decode the i-th row of a segment of a file; return whether its bits were enough.
inline bool decode_row(const CodedRows& coded, int64_t file, int64_t segment, int64_t index, Span<int32_t> pixels, int64_t n) {
  const int64_t own = file * coded.n_segments + segment;
  const int64_t start = coded.starts[own * coded.n_rows + index], stop = coded.stops[own * coded.n_rows + index];
  if (coded.block[own] > 0) {
    const auto words = span_of(reinterpret_cast<const uint32_t*>(coded.octets), coded.n_octets / 4);
    if (!decode_tile(words, start, stop, pixels, n, coded.block[own], coded.pixel_bytes[own])) return false;
  } else {
    read_integers(span_of(coded.octets + start, coded.n_octets - start), coded.pixel_bytes[own], pixels, n);
  }
  const uint32_t zero = uint32_t(coded.zero[own]);
  if (zero != 0)
    for (int64_t x = 0; x < n; ++x) pixels[x] = int32_t(uint32_t(pixels[x]) + zero);
  return true;
}

}  // namespace
}  // namespace permil::exposures
