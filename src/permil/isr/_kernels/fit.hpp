// How well the noise model describes the scatter of the frames of a stack, and the variance of the mean.
#pragma once
#include "isr/_kernels/mean.hpp"

namespace permil::isr {
namespace {

/// Fill the chi-square that is exceeded with the probability of `threshold` sigma, for 0 to n_frames - 1 degrees of freedom.
///
/// Wilson & Hilferty (1931): the cube root of chi-square is nearly normal.
inline void chi_square_limits(Span<double> limits, int64_t n_frames, double threshold) {
  limits[0] = std::numeric_limits<double>::infinity();
  for (int64_t freedom = 1; freedom < n_frames; ++freedom) {
    const double narrow = 2.0 / (9.0 * double(freedom)), root = 1.0 - narrow + threshold * std::sqrt(narrow);
    limits[freedom] = double(freedom) * (root * root * root);
  }
}

/// Return the sum of a row, in eight lanes.
inline double sum_of_row(Span<const double> addends, int64_t n) {
  constexpr int LANES = 8;
  double totals[LANES] = {}, total = 0.0;
  int64_t x = 0;
  for (; x + LANES <= n; x += LANES)
    for (int lane = 0; lane < LANES; ++lane) totals[lane] += addends[x + lane];
  for (; x < n; ++x) totals[0] += addends[x];
  for (double each : totals) total += each;
  return total;
}

/// Flag pixels that scatter more than the limit for their degrees of freedom.
inline void flag_scatter(Span<const double> chi_square, Span<const int32_t> freedom, Span<const double> limits, int64_t n_frames,
                         Span<int32_t> mask, int64_t n) {
  // Most pixels have all frames, and scatter as they should.
  const int32_t most = int32_t(n_frames - 1);
  const double limit = limits[most];
  int32_t unusual = 0;
  for (int64_t x = 0; x < n; ++x) unusual += (freedom[x] != most) | (chi_square[x] > limit);
  if (unusual == 0) return;
  for (int64_t x = 0; x < n; ++x)
    if (freedom[x] > 0 && chi_square[x] > limits[freedom[x]]) mask[x] |= SUSPECT;
}

/// Memory for a row: expected value, chi-square, degrees of freedom.
struct FitRow {
  double *expected, *chi_square;
  int32_t* freedom;
};

/// Complete a row of a stack: its variance, and whether its frames scatter as they should; chi-square of unflagged pixels is summed.
inline void finish_row(const NoiseTest& test, Span<const double> limits, int64_t at, int64_t n, const Averages& out, const FitRow& row,
                       double& sum, int64_t& sum_of_freedom) {
  const double noise = test.noise_variance, photon = test.photon_variance, mean_light = test.mean_light;
  const auto image = span_of(out.image + at, n), variance = span_of(out.variance + at, n), squares = span_of(out.squares + at, n);
  const auto mask = span_of(out.mask + at, n);
  const auto kept = span_of(out.kept + at, n);
  const auto expected = span_of(row.expected, n), chi_square = span_of(row.chi_square, n);
  const auto freedom = span_of(row.freedom, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const double electrons = image[x], ratio = mean_light / double(variance[x]);
    expected[x] = photon * (electrons > 0 ? electrons : 0.0) + noise * double(kept[x]) * ratio;
    chi_square[x] = double(squares[x]) / expected[x];
    variance[x] = float(ratio * expected[x]);
  }
  LOOP (int64_t x = 0; x < n; ++x) freedom[x] = (kept[x] > 0) & (expected[x] > 0) ? int32_t(kept[x]) - 1 : 0;
  flag_scatter(chi_square, freedom, limits, test.n_frames, mask, n);
  LOOP (int64_t x = 0; x < n; ++x) freedom[x] = (mask[x] & ~REJECTED) == 0 ? freedom[x] : 0;
  LOOP (int64_t x = 0; x < n; ++x) chi_square[x] = freedom[x] > 0 ? chi_square[x] : 0.0;
  sum = sum_of_row(chi_square, n);
  sum_of_freedom = 0;
  for (int64_t x = 0; x < n; ++x) sum_of_freedom += freedom[x];
}

}  // namespace
}  // namespace permil::isr
