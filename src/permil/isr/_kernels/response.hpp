// Counts to adu over level and superbias; crosstalk; linearity and gain; flags of pixels that are saturated or beyond the linearity curve.
#pragma once
#include <cmath>

#include "_kernels/span.hpp"
#include "isr/_kernels/overscan.hpp"
#include "isr/_kernels/planes.hpp"

namespace permil::isr {
namespace {

/// Subtract level and superbias from counts and store the result in `measured`, adu.
inline void to_measured(Span<const int32_t> counts, double level, Span<const float> bias, bool has_bias, Span<float> measured, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) measured[x] = float(counts[x] - level);
  if (has_bias) LOOP (int64_t x = 0; x < n; ++x) measured[x] -= bias[x];
}

/// Subtract the crosstalk from each segment: s_v = m_v - sum over sources of K_vs m_s. `total` holds a row.
inline void subtract_crosstalk(Span<const float> measured, Span<const float> correction, Span<float> total, Span<float> corrected,
                               int64_t n_segments, int64_t n) {
  for (int64_t victim = 0; victim < n_segments; ++victim) {
    for (int64_t x = 0; x < n; ++x) total[x] = 0.0f;
    for (int64_t source = 0; source < n_segments; ++source) {
      const float factor = correction[victim * n_segments + source];
      const auto from = part_of(measured, source * n, n);
      if (factor != 0) LOOP (int64_t x = 0; x < n; ++x) total[x] += factor * from[x];
    }
    const auto own = part_of(measured, victim * n, n);
    const auto to = part_of(corrected, victim * n, n);
    LOOP (int64_t x = 0; x < n; ++x) to[x] = own[x] - total[x];
  }
}

/// Conversion of adu of a segment to electrons; see permil.isr.calibration.linearity.Response.
struct Response {
  Span<const double> knots, coefficients;
  int64_t n_knots;
  double limit;
  bool straight;
  double gain, saturation;
};

inline Response response_of(const Segments& own, int64_t segment, double gain) {
  const int64_t most = own.most_knots;
  return {span_of(own.knots + segment * most, most),
          span_of(own.coefficients + segment * most * 4, most * 4),
          own.n_knots[segment],
          own.limit[segment],
          own.straight[segment],
          gain,
          own.saturation[segment]};
}

/// Return the linear adu: c0 + c1 t + c2 t^2 + c3 t^3 with t = adu - knot of the piece; below the first knot the curve is straight.
inline double linear_adu(const Response& response, double adu) {
  const auto c = response.coefficients;
  double step = adu - response.knots[0];
  if (step < 0) return c[0] + c[1] * step;
  int64_t piece = 0;
  if (response.n_knots > 1) {
    int64_t end = response.n_knots;
    while (piece < end) {
      const int64_t middle = (piece + end) / 2;
      if (adu < response.knots[middle]) end = middle;
      else piece = middle + 1;
    }
    --piece;
    step = adu - response.knots[piece];
  }
  return c[4 * piece] + step * (c[4 * piece + 1] + step * (c[4 * piece + 2] + step * c[4 * piece + 3]));
}

/// Apply a gain only, in single precision: a factor loses nothing by it. The bound is a little low, so that rounding hides nothing.
inline bool apply_gain(Span<const float> measured, const Response& response, Span<float> signal, int64_t n) {
  const double largest = response.saturation / response.gain < response.limit ? response.saturation / response.gain : response.limit;
  const float factor = float(response.gain), bound = float((1 - 1e-6) * largest);
  LOOP (int64_t x = 0; x < n; ++x) signal[x] = factor * measured[x];
  int32_t below = 0;
  for (int64_t x = 0; x < n; ++x) below += measured[x] < bound;
  return below != n;
}

/// Apply gain and a curve of one piece.
inline bool apply_polynomial(Span<const float> measured, const Response& response, Span<float> signal, int64_t n) {
  const double knot = response.knots[0], gain = response.gain, limit = response.limit, saturation = response.saturation;
  const double c0 = response.coefficients[0], c1 = response.coefficients[1], c2 = response.coefficients[2], c3 = response.coefficients[3];
  int32_t within = 0;
  LOOP (int64_t x = 0; x < n; ++x) {
    const double step = double(measured[x]) - knot;
    const double below = c0 + c1 * step, above = c0 + step * (c1 + step * (c2 + step * c3));
    const double electrons = gain * (step < 0 ? below : above);
    within += (electrons < saturation) & (double(measured[x]) <= limit);
    signal[x] = float(electrons);
  }
  return within != n;
}

/// Apply linearity and gain; return whether any pixel may have to be flagged (by `flag_response`) or is NaN.
inline bool to_electrons(Span<const float> measured, const Response& response, Span<float> signal, int64_t n) {
  if (response.straight) return apply_gain(measured, response, signal, n);
  if (response.n_knots == 1) return apply_polynomial(measured, response, signal, n);
  bool within = true;
  for (int64_t x = 0; x < n; ++x) {
    const double electrons = response.gain * linear_adu(response, measured[x]);
    within &= (electrons < response.saturation) & (measured[x] <= response.limit);
    signal[x] = float(electrons);
  }
  return !within;
}

/// Return whether any count is saturated.
inline bool any_saturated(Span<const int32_t> counts, double saturation_adu, int64_t n) {
  if (!(saturation_adu <= double(HIGHEST))) return false;
  const double least_count = std::ceil(saturation_adu);
  const int32_t least = least_count > double(LOWEST) ? int32_t(least_count) : int32_t(LOWEST);
  int32_t above = 0;
  for (int64_t x = 0; x < n; ++x) above += counts[x] >= least;
  return above > 0;
}

/// Flag pixels that are saturated, as a count or as a signal, or beyond the linearity curve.
inline void flag_response(Span<const int32_t> counts, double saturation_adu, Span<const float> measured, const Response& response,
                          Span<int16_t> planes, int64_t n) {
  for (int64_t x = 0; x < n; ++x) {
    const double electrons = response.gain * linear_adu(response, measured[x]);
    if (double(counts[x]) >= saturation_adu || electrons >= response.saturation) planes[x] |= SAT;
    if (double(measured[x]) > response.limit) planes[x] |= SUSPECT;
  }
}

}  // namespace
}  // namespace permil::isr
