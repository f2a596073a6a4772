// Pointings: divided by their light, weighted, and added to the sums of a detector.
#pragma once
#include "flat/_kernels/rows.hpp"

namespace permil::flat {
namespace {

void divide(const Lit& lit, double photodiode, float* response, float* response_variance, int16_t* planes, const Scratch& scratch) {
  const int64_t n = lit.shape.columns;
  for (int64_t first = 0; first < lit.shape.rows * n; first += n) {
    const auto signal = span_of(lit.signal + first, n), variance = span_of(lit.variance + first, n), beam = span_of(lit.beam + first, n);
    const auto mask = span_of(mask_of_row(lit.mask, first, n, scratch.planes), n);
    const auto level = span_of(response + first, n), noise = span_of(response_variance + first, n);
    const auto own = span_of(planes + first, n);
    LOOP (int64_t x = 0; x < n; ++x) {
      const double inverse = 1.0 / (photodiode * double(beam[x]));
      const double exact = double(signal[x]) * inverse, exact_noise = double(variance[x]) * inverse * inverse;
      // Pixels without a value are NO_DATA; saturated or bad pixels may have a finite value that must not be used.
      const bool is_finite = (__builtin_fabs(exact) < __builtin_inf()) & (__builtin_fabs(exact_noise) < __builtin_inf());
      const bool is_usable = is_finite & ((mask[x] & UNUSABLE) == 0);
      level[x] = is_usable ? float(exact) : NONE;
      noise[x] = is_usable ? float(exact_noise) : NONE;
      own[x] = int16_t(mask[x] | (is_usable ? 0 : NO_DATA));
    }
  }
}

/// One row of a pointing.
struct LitRow {
  const float *signal, *variance, *beam, *error;
  const int16_t* mask;
};

/// Return a row; pixels that are not contiguous are copied to the first row of `scratch`.
inline LitRow row_of(const Lit& lit, const Steps& error, int64_t row, const Scratch& scratch) {
  const int64_t n = lit.shape.columns, first = row * n;
  return {lit.signal + first, lit.variance + first, lit.beam + first, row_of_steps(error, row, n, scratch.rows),
          mask_of_row(lit.mask, first, n, scratch.planes)};
}

/// Fill the inverse of the light, and the weight, of the pixels of a row.
inline void row_weights(const LitRow& row, const Light& light, Span<float> inverse, Span<float> weight, int64_t n) {
  const auto signal = span_of(row.signal, n), variance = span_of(row.variance, n), beam = span_of(row.beam, n), error = span_of(row.error, n);
  const auto mask = span_of(row.mask, n);
  const float photodiode = light.photodiode, photon = light.photon, of_scale = light.of_scale;
  LOOP (int64_t x = 0; x < n; ++x) {
    const float own = 1.0f / (photodiode * beam[x]), relative = error[x] * photodiode * own;
    const float full = 1.0f / (photon * own + relative * relative + of_scale);
    const bool is_finite = __builtin_fabsf(signal[x] * own) + variance[x] * own < INFINITE;
    inverse[x] = own;
    weight[x] = is_finite & ((mask[x] & UNUSABLE) == 0) ? full : 0.0f;
  }
}

void fill_weights(const Lit& lit, const Steps& error, const Light& light, float* weights, const Scratch& scratch) {
  const int64_t n = lit.shape.columns;
  const auto inverse = span_of(scratch.rows + n, n);
  for (int64_t row = 0; row < lit.shape.rows; ++row)
    row_weights(row_of(lit, error, row, scratch), light, inverse, span_of(weights + row * n, n), n);
}

/// Add deviations from the first response of each pixel.
inline void add_deviations(const LitRow& row, Span<const float> inverse, Span<const float> weight, Span<float> first, Span<float> total,
                           Span<float> deviations, Span<float> squares, int64_t n) {
  const auto signal = span_of(row.signal, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const float own = weight[x], response = signal[x] * inverse[x], before = first[x], sum = total[x];
    const float from_first = own > 0.0f ? response - before : 0.0f;
    // A pixel's first response is what its deviations are counted from.
    const float shift = sum == 0.0f ? from_first : 0.0f, deviation = from_first - shift;
    first[x] = before + shift;
    total[x] = sum + own;
    deviations[x] += own * deviation;
    squares[x] += own * deviation * deviation;
  }
}

inline void add_noise(const LitRow& row, Span<const float> inverse, Span<const float> weight, Span<float> noise, Span<float> per_light,
                      Span<float> weighted, int64_t n) {
  const auto variance = span_of(row.variance, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const bool is_lit = weight[x] > 0.0f;
    const float share = is_lit ? weight[x] * inverse[x] : 0.0f;
    noise[x] += is_lit ? share * share * variance[x] : 0.0f;
    per_light[x] += share;
    weighted[x] += is_lit ? share * inverse[x] * variance[x] : 0.0f;
  }
}

inline void add_planes(const LitRow& row, Span<const float> weight, Span<int16_t> count, Span<int16_t> all_planes, Span<int16_t> any_planes,
                       int64_t n) {
  const auto mask = span_of(row.mask, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const int16_t lit = weight[x] > 0.0f ? 1 : 0, own = int16_t(mask[x] | (lit ? 0 : NO_DATA));
    count[x] = int16_t(count[x] + lit);
    all_planes[x] = int16_t(all_planes[x] & own);
    any_planes[x] = int16_t(any_planes[x] | own);
  }
}

void add_pointing(const Lit& lit, const Steps& error, const Light& light, const Combination& out, const Scratch& scratch) {
  const int64_t n = lit.shape.columns;
  const auto inverse = span_of(scratch.rows + n, n), weight = span_of(scratch.rows + 2 * n, n);
  for (int64_t number = 0; number < lit.shape.rows; ++number) {
    const LitRow row = row_of(lit, error, number, scratch);
    const auto sums = [&](int64_t which) { return span_of(out.sums + (6 * number + which) * n, n); };
    row_weights(row, light, inverse, weight, n);
    add_deviations(row, inverse, weight, span_of(out.first + number * n, n), sums(0), sums(1), sums(2), n);
    add_noise(row, inverse, weight, sums(3), sums(4), sums(5), n);
    add_planes(row, weight, span_of(out.count + number * n, n), span_of(out.all_planes + number * n, n),
               span_of(out.any_planes + number * n, n), n);
  }
}

}  // namespace
}  // namespace permil::flat
