// Means of rows of a stack: of all measurements; pixels in which an extreme stands out are set aside.
#pragma once
#include "isr/_kernels/sums.hpp"

namespace permil::isr {
namespace {

/// A row of means on their way: extremes (0 for none), the smallest of them and its q, sums of d and q, and what goes into the result.
struct Means {
  float *high, *second, *low, *lowest, *lowest_light, *image, *total, *squares;
  double *signal, *light;
  int32_t *mask, *doubtful;
};

inline Means empty_means(int64_t n, Scratch& scratch) {
  Means means;
  for (float** each : {&means.high, &means.second, &means.low, &means.lowest, &means.lowest_light, &means.image, &means.total, &means.squares})
    *each = take<float>(scratch, n);
  for (double** each : {&means.signal, &means.light}) *each = take<double>(scratch, n);
  for (int32_t** each : {&means.mask, &means.doubtful}) *each = take<int32_t>(scratch, n);
  return means;
}

/// Add the extremes to the sums.
inline void add_extremes(const Sums& sums, const Means& means, int64_t n) {
  const auto high = span_of(means.high, n), second = span_of(means.second, n), low = span_of(means.low, n);
  const auto lowest = span_of(means.lowest, n), lowest_light = span_of(means.lowest_light, n);
  const auto signal = span_of(means.signal, n), light = span_of(means.light, n);
  const auto high_light = span_of(sums.high_light, n), second_light = span_of(sums.second_light, n), low_light = span_of(sums.low_light, n);
  const auto of_high = span_of(sums.high, n), of_second = span_of(sums.second, n), of_low = span_of(sums.low, n);
  const auto inner = span_of(sums.signal, n);
  const auto inner_light = span_of(sums.light, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const float h = high_light[x] > 0.0f ? of_high[x] : 0.0f, s = second_light[x] > 0.0f ? of_second[x] : 0.0f;
    const float l = low_light[x] > 0.0f ? of_low[x] : 0.0f;
    high[x] = h;
    second[x] = s;
    low[x] = l;
    // Of two measurements the second largest is the smallest.
    lowest[x] = low_light[x] > 0.0f ? l : s;
    lowest_light[x] = low_light[x] > 0.0f ? low_light[x] : second_light[x];
    signal[x] = inner[x] + double(h) * double(high_light[x]) + double(s) * double(second_light[x]) + double(l) * double(low_light[x]);
    light[x] = double(inner_light[x]) + double(high_light[x]) + double(second_light[x]) + double(low_light[x]);
  }
}

/// Take the mean of all measurements, and sum q (x - mean)^2: what `average_tested` returns when nothing is rejected, bit by bit.
inline void mean_of_all(const Sums& sums, double mean_light, const Means& means, int64_t n) {
  const auto high = span_of(means.high, n), second = span_of(means.second, n), low = span_of(means.low, n);
  const auto image = span_of(means.image, n), total = span_of(means.total, n), squares = span_of(means.squares, n);
  const auto signal = span_of(means.signal, n), light = span_of(means.light, n);
  const auto high_light = span_of(sums.high_light, n), second_light = span_of(sums.second_light, n), low_light = span_of(sums.low_light, n);
  const auto inner_light = span_of(sums.light, n), inner_squares = span_of(sums.squares, n);
  const auto inner = span_of(sums.signal, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const double centre = inner_light[x] > 0.0f ? inner[x] / double(inner_light[x]) : double(high[x]);
    const double h = high[x] - centre, s = second[x] - centre, l = low[x] - centre;
    const double qh = high_light[x], qs = second_light[x], ql = low_light[x];
    const double moment = qh * h + qs * s + ql * l;
    const double about_centre = qh * h * h + qs * s * s + ql * l * l;
    const double about_mean = double(inner_squares[x]) + (about_centre - moment * moment / light[x]);
    squares[x] = float(mean_light * (about_mean > 0 ? about_mean : 0.0));
    image[x] = float(signal[x] / light[x] * mean_light);
    total[x] = float(light[x]);
  }
}

/// Find pixels in which an extreme deviates from the mean of the others by more than the threshold; return whether there is any.
inline bool find_doubtful(const Sums& sums, const NoiseTest& test, const Means& means, int64_t n) {
  const double noise = test.noise_variance, photon = test.photon_variance, limit = test.threshold * test.threshold;
  const auto signal = span_of(means.signal, n), light = span_of(means.light, n);
  const auto doubtful = span_of(means.doubtful, n);
  const auto measured = span_of(sums.measured, n);
  fill_row(doubtful, 0, n);
  const float* const extremes[2][2] = {{means.high, sums.high_light}, {means.lowest, means.lowest_light}};
  for (const auto& each : extremes) {
    const auto extreme = span_of(each[0], n), extreme_light = span_of(each[1], n);
    LOOP (int64_t x = 0; x < n; ++x) {
      const double sample = extreme[x], weight = extreme_light[x], own = 1 / weight, rest = 1 / (light[x] - weight);
      const double others = (signal[x] - sample * weight) * rest;
      const double photons = photon * (others > 0 ? others : 0.0);
      const double spread = photons * (own + rest) + noise * (own * own + (double(measured[x]) - 1) * rest * rest);
      doubtful[x] |= (sample - others) * (sample - others) > limit * spread;
    }
  }
  int32_t found = 0;
  LOOP (int64_t x = 0; x < n; ++x) doubtful[x] &= measured[x] > 1;
  for (int64_t x = 0; x < n; ++x) found += doubtful[x];
  return found > 0;
}

/// Take the mask of the mean: no data, or saturated in part of the frames.
inline void mask_of_mean(const Sums& sums, int64_t n_frames, const Means& means, int64_t n) {
  const auto mask = span_of(means.mask, n);
  const auto measured = span_of(sums.measured, n);
  const auto planes = span_of(sums.planes, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const int32_t own = planes[x], some = own & ~NO_DATA;
    // A cosmic ray, or light at the limit where what is left is the faint half of the frames.
    const bool is_few = ((own & SAT) != 0) & (2 * int32_t(measured[x]) > int32_t(n_frames));
    const int32_t kept = is_few ? (some & ~SAT) | SUSPECT : some;
    mask[x] = measured[x] > 0 ? kept : own | NO_DATA;
  }
}

/// Average all measurements of a row of an amplifier; set aside pixels that may hold outliers.
///
/// The sum of q goes in the place of the variance, and chi-square times its denominator into `squares`.
inline void average_row(const Sums& sums, int64_t amplifier, int64_t number, const NoiseTest& test, const Placement& place,
                        const Means& means, const Averages& out, Doubtful& aside) {
  const int64_t n = place.n_columns, y = place.y_first + place.y_step * number, at = y * out.nx + place.x_min;
  const bool flip = place.flip_x;
  add_extremes(sums, means, n);
  mean_of_all(sums, test.mean_light, means, n);
  mask_of_mean(sums, test.n_frames, means, n);
  place_row(span_of(means.image, n), span_of(out.image + at, n), n, flip);
  place_row(span_of(means.total, n), span_of(out.variance + at, n), n, flip);
  place_row(span_of(means.squares, n), span_of(out.squares + at, n), n, flip);
  place_row(span_of(means.mask, n), span_of(out.mask + at, n), n, flip);
  place_row(span_of(sums.measured, n), span_of(out.kept + at, n), n, flip);
  fill_row(span_of(out.rejected + at, n), uint8_t(0), n);
  if (!std::isfinite(test.threshold) || !find_doubtful(sums, test, means, n)) return;
  const auto doubtful = span_of(means.doubtful, n);
  for (int64_t x = 0; x < n; ++x) {
    if (!doubtful[x]) continue;
    aside.places.add({amplifier, y, place.x_min + (flip ? n - 1 - x : x)});
    aside.sums.add({sums.signal[x], sums.light[x], sums.squares[x], sums.high[x], sums.second[x], sums.low[x], sums.high_light[x],
                    sums.second_light[x], sums.low_light[x], double(sums.measured[x])});
  }
}

}  // namespace
}  // namespace permil::isr
