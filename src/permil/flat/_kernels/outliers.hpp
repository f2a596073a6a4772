// Outliers of a single exposure.
#pragma once
#include "flat/_kernels/rows.hpp"

namespace permil::flat {
namespace {

constexpr int16_t OUTLIER = NO_DATA | REJECTED;

/// Fill the variance of a row of an amplifier and flag what is off; return whether there is any.
inline bool compare_row(Span<const float> signal, Span<const float> beam, Span<const float> reference, float scale, float noise, float limit,
                        Span<float> variance, Span<int16_t> outlier, int64_t n) {
  int16_t any = 0;
  LOOP (int64_t x = 0; x < n; ++x) {
    const float varied = (signal[x] > 0.0f ? signal[x] : 0.0f) + noise, off = signal[x] - scale * beam[x] * reference[x];
    // A pixel far below what is expected has a photon noise that is too small: that of what is expected is added.
    const float spread = varied + (off > 0.0f ? 0.0f : -off);
    variance[x] = varied;
    outlier[x] = off * off > limit * spread ? OUTLIER : int16_t(0);
  }
  for (int64_t x = 0; x < n; ++x) any = int16_t(any | outlier[x]);
  return any != 0;
}

int64_t flag_outliers(const Expected& expected, const Amplifiers& amplifiers, int16_t* mask, float* variance, const Scratch& scratch) {
  int64_t found = 0;
  for (int64_t amplifier = 0; amplifier < amplifiers.count; ++amplifier) {
    const int64_t* bounds = amplifiers.bounds + 4 * amplifier;
    const int64_t n = bounds[3] - bounds[2];
    const auto outlier = span_of(scratch.planes, n);
    const int64_t last = smaller(bounds[1] - expected.first_row, expected.shape.rows);
    for (int64_t row = larger(bounds[0] - expected.first_row, 0); row < last; ++row) {
      const int64_t at = row * expected.shape.columns + bounds[2];
      if (!compare_row(span_of(expected.image + at, n), span_of(expected.beam + at, n), span_of(expected.reference + at, n), expected.scale,
                       amplifiers.noise[amplifier], expected.limit, span_of(variance + at, n), outlier, n))
        continue;
      const auto planes = span_of(mask + at, n);
      for (int64_t x = 0; x < n; ++x) {
        found += (outlier[x] & ~planes[x]) != 0;
        planes[x] = int16_t(planes[x] | outlier[x]);
      }
    }
  }
  return found;
}

}  // namespace
}  // namespace permil::flat
