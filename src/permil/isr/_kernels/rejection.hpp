// Rejection of outliers: the extremes of a pixel are tested against the noise model, one after the other.
#pragma once
#include "isr/_kernels/mean.hpp"

namespace permil::isr {
namespace {

/// A pixel after the test: measurements that are kept, their sum, that of their q, and the sum of q (x - mean)^2.
struct Tested {
  int64_t kept;
  double signal, light, squares;
};

/// The sums of a pixel, in the order of permil.isr.stack.Doubtful.sums.
struct PixelSums {
  double signal, light, squares;
  const double *sample, *weight;  // the three extremes and their q
  int64_t measured, present;      // measurements, and how many of them are extremes
};

/// Return the extremes that are kept: those from `first` to `last`.
///
/// The most deviating extreme is rejected, repeatedly; each is compared with the mean of all others. At most half of the measurements
/// are rejected: beyond that the majority is not defined, and chi-square shows the disagreement.
inline Tested reject_extremes(const PixelSums& pixel, const NoiseTest& test, int64_t& first, int64_t& last) {
  const auto sample = span_of(pixel.sample, 3), weight = span_of(pixel.weight, 3);
  double signal = pixel.signal, total = pixel.light;
  for (int64_t index = 0; index < pixel.present; ++index) {
    signal += sample[index] * weight[index];
    total += weight[index];
  }
  int64_t kept = pixel.measured;
  first = 0;
  last = pixel.present - 1;
  while (first <= last && kept > 1 && 2 * (pixel.measured - kept + 1) <= pixel.measured) {
    int64_t worst = -1;
    double worst_square = test.threshold * test.threshold;
    for (int64_t index : {first, last}) {
      const double own = 1 / weight[index], rest = 1 / (total - weight[index]);
      const double mean = (signal - sample[index] * weight[index]) * rest;
      const double spread = test.photon_variance * (mean > 0.0 ? mean : 0.0) * (own + rest) +
                            test.noise_variance * (own * own + double(kept - 1) * rest * rest);
      const double square = (sample[index] - mean) * (sample[index] - mean);
      if (square > worst_square * spread) {
        worst = index;
        worst_square = square / spread;
      }
    }
    if (worst < 0) break;
    signal -= sample[worst] * weight[worst];
    total -= weight[worst];
    --kept;
    if (worst == first) ++first;
    else --last;
  }
  return {kept, signal, total, 0.0};
}

/// Return the contribution of the kept extremes to the sum of squares.
inline double squares_of_extremes(const PixelSums& pixel, int64_t first, int64_t last) {
  const auto sample = span_of(pixel.sample, 3), weight = span_of(pixel.weight, 3);
  const double centre = pixel.light > 0 ? pixel.signal / pixel.light : first < 3 ? sample[first] : 0.0;
  double total = pixel.light, moment = 0.0, squares = 0.0;
  for (int64_t index = first; index <= last; ++index) {
    const double deviation = sample[index] - centre;
    total += weight[index];
    moment += weight[index] * deviation;
    squares += weight[index] * deviation * deviation;
  }
  return total > 0 ? squares - moment * moment / total : 0.0;
}

/// Return the measurements of a pixel that are kept.
inline Tested average_tested(const double* sums, const NoiseTest& test) {
  const int64_t measured = int64_t(sums[9]);
  const PixelSums pixel{sums[0], sums[1], sums[2], sums + 3, sums + 6, measured, smaller(measured, 3)};
  int64_t first, last;
  Tested tested = reject_extremes(pixel, test, first, last);
  const double squares = pixel.squares + squares_of_extremes(pixel, first, last);
  tested.squares = squares > 0.0 ? squares : 0.0;
  return tested;
}

}  // namespace
}  // namespace permil::isr
