// Adaptive moments; see permil.spots.apertures for definition and sources.
#pragma once
#include "spots/_kernels/circles.hpp"

namespace permil::spots {
namespace {

constexpr int MOST_ITERATIONS = 60;
// Largest change in the last iteration: of the centroid relative to the spot's radius, of the moments relative to their own size.
constexpr double ACCURACY = 1e-7;

/// Sums of light under the weight times powers of the distance from its centre.
struct LightSums {
  double s, x, y, xx, yy, xy;
};

/// Return the sums under the weight of centre and moments `found` (x, y, xx, yy, xy), which ends at a number of sigmas.
inline LightSums sum_light(const Image& image, const double (&found)[5], double reach_squared) {
  const double x0 = found[0], y0 = found[1], reach_x = std::sqrt(reach_squared * found[2]), reach_y = std::sqrt(reach_squared * found[3]);
  const Inverse inverse = inverse_of(found[2], found[3], found[4]);
  const int64_t last_row = last_pixel(y0 + reach_y, image.ny), last_column = last_pixel(x0 + reach_x, image.nx);
  const int64_t first_column = first_pixel(x0 - reach_x, image.nx);
  LightSums sums{};
  for (int64_t row = first_pixel(y0 - reach_y, image.ny); row <= last_row; ++row) {
    const auto signal = span_of(image.signal + row * image.nx, image.nx);
    const auto usable = span_of(image.usable + row * image.nx, image.nx);
    const double v = double(row) - y0;
    for (int64_t column = first_column; column <= last_column; ++column) {
      const double u = double(column) - x0;
      const double distance = inverse.xx * u * u + inverse.yy * v * v + 2.0 * inverse.xy * u * v;
      if (distance > reach_squared || !usable[column]) continue;
      const double light = double(signal[column]) * std::exp(-0.5 * distance);
      sums.s += light;
      sums.x += light * u;
      sums.y += light * v;
      sums.xx += light * u * u;
      sums.yy += light * v * v;
      sums.xy += light * u * v;
    }
  }
  return sums;
}

/// How far an iteration may go.
struct Limits {
  double reach, largest_sigma, largest_shift;
};

/// Iterate to the fixed point, in place; return whether it is one.
inline bool converge(const Image& image, double (&found)[5], const Limits& limits) {
  const double start_x = found[0], start_y = found[1], largest = limits.largest_sigma * limits.largest_sigma;
  for (int iteration = 0; iteration < MOST_ITERATIONS; ++iteration) {
    const double x0 = found[0], y0 = found[1], xx = found[2], yy = found[3], xy = found[4];
    if (!(xx * yy - xy * xy > 0.0 && 0.0 < xx && xx <= largest && 0.0 < yy && yy <= largest)) return false;
    if (std::fabs(x0 - start_x) > limits.largest_shift || std::fabs(y0 - start_y) > limits.largest_shift) return false;
    const Inverse inverse = inverse_of(xx, yy, xy);
    const LightSums sums = sum_light(image, found, limits.reach * limits.reach);
    if (!(sums.s > 0.0)) return false;
    const double mx = sums.x / sums.s, my = sums.y / sums.s;
    const double wxx = sums.xx / sums.s - mx * mx, wyy = sums.yy / sums.s - my * my, wxy = sums.xy / sums.s - mx * my;
    found[0] = x0 + 2.0 * mx;
    found[1] = y0 + 2.0 * my;
    const double weighted = wxx * wyy - wxy * wxy;
    if (!(weighted > 0.0)) return false;
    // What is left after taking the weight away is the covariance of a Gaussian spot: one step for it, few for others.
    const double jxx = wyy / weighted - inverse.xx, jyy = wxx / weighted - inverse.yy, jxy = -wxy / weighted - inverse.xy;
    const double left = jxx * jyy - jxy * jxy;
    const bool is_positive = left > 0.0 && jxx > 0.0;
    found[2] = is_positive ? jyy / left : 2.0 * wxx;
    found[3] = is_positive ? jxx / left : 2.0 * wyy;
    found[4] = is_positive ? -jxy / left : 2.0 * wxy;
    const double size = xx + yy;
    const double change = at_least(at_least(std::fabs(found[2] - xx), std::fabs(found[3] - yy)), std::fabs(found[4] - xy)) / size;
    if (change < ACCURACY && at_least(std::fabs(mx), std::fabs(my)) < ACCURACY * std::sqrt(size)) return true;
  }
  return false;
}

/// Sums from which the covariance of the moments follows.
struct NoiseSums {
  double jacobian[5][5], middle[5][5];
  double constant[5], shared[5];  // sums of W g, and of their product with the background's answer to rows
  double total;
};

/// Add one row and strip to the sums; g and slope are those of permil.spots.apertures.
inline void add_noise_of_row(const Image& image, const double (&found)[5], const Inverse& inverse, double reach_squared, double level,
                             double background, int64_t row, int64_t first, int64_t last, NoiseSums& sums) {
  const auto signal = span_of(image.signal + row * image.nx, image.nx), variance = span_of(image.variance + row * image.nx, image.nx);
  const auto usable = span_of(image.usable + row * image.nx, image.nx);
  const double v = double(row) - found[1];
  double in_row[5] = {};
  for (int64_t column = first; column <= last; ++column) {
    const double u = double(column) - found[0];
    // p = M^-1 r
    const double p = inverse.xx * u + inverse.xy * v, q = inverse.xy * u + inverse.yy * v, distance = p * u + q * v;
    if (distance > reach_squared || !usable[column]) continue;
    const double weight = std::exp(-0.5 * distance), light = double(signal[column]) * weight;
    const double noise = (double(variance[column]) - level) * weight * weight;
    sums.total += light;
    const double g[5] = {u, v, u * u - 0.5 * found[2], v * v - 0.5 * found[3], u * v - 0.5 * found[4]};
    // d log W / d parameters: p and q for the centroid, p p / 2, q q / 2 and p q for the moments.
    const double slope[5] = {p, q, 0.5 * p * p, 0.5 * q * q, p * q};
    for (int a = 0; a < 5; ++a) {
      in_row[a] += weight * g[a];
      for (int b = 0; b < 5; ++b) {
        sums.jacobian[a][b] += light * g[a] * slope[b];
        sums.middle[a][b] += noise * g[a] * g[b];
      }
    }
    // d g / d parameters
    sums.jacobian[2][0] -= 2.0 * light * u;
    sums.jacobian[3][1] -= 2.0 * light * v;
    sums.jacobian[4][0] -= light * v;
    sums.jacobian[4][1] -= light * u;
  }
  for (int a = 0; a < 5; ++a) {
    sums.constant[a] += in_row[a];
    sums.shared[a] += level * background * in_row[a];
    for (int b = 0; b < 5; ++b) sums.middle[a][b] += level * (in_row[a] * in_row[b]);
  }
}

/// Fill the covariance of centre and moments, from the noise of the pixels; see permil.spots.apertures. NaN where there is none.
inline void covariance_of(const Image& image, const double (&found)[5], double background_error, const RowErrors& errors, int64_t spot,
                          double reach_squared, Span<double> covariance) {
  const double reach_x = std::sqrt(reach_squared * found[2]), reach_y = std::sqrt(reach_squared * found[3]);
  const Inverse inverse = inverse_of(found[2], found[3], found[4]);
  const int64_t last_row = last_pixel(found[1] + reach_y, image.ny);
  NoiseSums sums{};
  for (int64_t row = first_pixel(found[1] - reach_y, image.ny); row <= last_row; ++row)
    for (int64_t strip = 0; strip < errors.noise.n_strips; ++strip) {
      int64_t first = first_pixel(found[0] - reach_x, image.nx), last = last_pixel(found[0] + reach_x, image.nx);
      limit_to_strip(errors.noise, strip, first, last);
      if (first > last) continue;
      const double level = errors.noise.variance[row * errors.noise.n_strips + strip];
      add_noise_of_row(image, found, inverse, reach_squared, level, answer_of(errors, spot, row, strip), row, first, last, sums);
    }
  for (int a = 0; a < 5; ++a) {
    sums.jacobian[a][a] -= a < 2 ? sums.total : 0.5 * sums.total;
    for (int b = 0; b < 5; ++b)
      sums.middle[a][b] += background_error * background_error * (sums.constant[a] * sums.constant[b]) -
                           sums.constant[a] * sums.shared[b] - sums.shared[a] * sums.constant[b];
  }
  double scaled[5][5], inverted[5][5], half[5][5] = {};
  for (int a = 0; a < 5; ++a)
    for (int b = 0; b < 5; ++b) scaled[a][b] = sums.jacobian[a][b] / sums.total;
  const bool is_regular = std::fabs(invert(scaled, inverted)) >= 1e-12;
  for (int a = 0; a < 5; ++a)
    for (int c = 0; c < 5; ++c) {
      inverted[a][c] /= sums.total;
      for (int b = 0; b < 5; ++b) half[b][a] += inverted[a][c] * sums.middle[c][b];
    }
  for (int a = 0; a < 5; ++a)
    for (int b = 0; b < 5; ++b) {
      double total = 0.0;
      for (int c = 0; c < 5; ++c) total += half[c][a] * inverted[b][c];
      covariance[5 * a + b] = is_regular ? total : double(NAN);
    }
}

}  // namespace
}  // namespace permil::spots
