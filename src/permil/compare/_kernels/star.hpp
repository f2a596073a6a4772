// A star on a stamp: its light, and what its measurement answers to changes of the light; see permil.compare.stars.response.
#pragma once
#include "_kernels/mathematics.hpp"
#include "compare/_kernels/structs.hpp"

namespace permil::compare {
namespace {

/// Sigmas at which the weight of adaptive moments ends.
constexpr double WEIGHT_REACH = 5.0;

/// Return the area of a circle around the origin that lies in the rectangle from the origin to (x, y), with the sign of x y.
inline double corner(double x, double y, double radius) {
  const double sign = x * y >= 0.0 ? 1.0 : -1.0;
  x = at_most(std::fabs(x), radius);
  y = at_most(std::fabs(y), radius);
  const double full = at_most(std::sqrt(at_least(radius * radius - y * y, 0.0)), x);
  return sign * (full * y + under_circle(x, radius) - under_circle(full, radius));
}

/// Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle.
inline double circle_part(double u, double v, double radius) {
  const double distance = std::sqrt(u * u + v * v);
  if (distance <= radius - 0.7072) return 1.0;
  if (distance >= radius + 0.7072) return 0.0;
  const double left = u - 0.5, right = u + 0.5, low = v - 0.5, high = v + 0.5;
  return corner(right, high, radius) - corner(left, high, radius) - corner(right, low, radius) + corner(left, low, radius);
}

/// Draw a star, its centre at (u0, v0) from that of the stamp, as light per pixel.
inline void draw_star(double u0, double v0, const double* fractions, const double* covariances, int64_t n_components, int64_t size,
                      Span<double> light) {
  constexpr double PI = 3.14159265358979323846;
  constexpr int64_t PART = 64;
  const int64_t half = size / 2;
  for (int64_t pixel = 0; pixel < size * size; ++pixel) light[pixel] = 0.0;
  for (int64_t component = 0; component < n_components; ++component) {
    const double xx = covariances[3 * component], yy = covariances[3 * component + 1], xy = covariances[3 * component + 2];
    const Inverse inverse = inverse_of(xx, yy, xy);
    const double height = fractions[component] / (2.0 * PI * std::sqrt(xx * yy - xy * xy));
    for (int64_t row = 0; row < size; ++row)
      for (int64_t first = 0; first < size; first += PART) {
        // Exponents come first, since they then run on vector units.
        double exponent[PART];
        const double v = double(row - half) - v0;
        const int32_t n = int32_t(smaller(PART, size - first)), offset = int32_t(first - half);
        LOOP (int32_t pixel = 0; pixel < n; ++pixel) {
          const double u = double(offset + pixel) - u0;
          exponent[pixel] = -0.5 * (inverse.xx * u * u + inverse.yy * v * v) - inverse.xy * u * v;
        }
        const auto own = part_of(light, row * size + first, n);
        for (int32_t pixel = 0; pixel < n; ++pixel) own[pixel] += height * std::exp(exponent[pixel]);
      }
  }
}

/// Fill the answer of the flux in a circle; return the flux.
inline double answer_of_flux(double u0, double v0, double radius, const Stamp& stamp) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of(stamp.light, pixels), answer = span_of(stamp.answer, pixels);
  double flux = 0.0;
  for (int64_t row = 0; row < size; ++row)
    for (int64_t column = 0; column < size; ++column) {
      const double part = circle_part(double(column - stamp.half) - u0, double(row - stamp.half) - v0, radius);
      answer[row * size + column] = part;
      flux += part * light[row * size + column];
    }
  LOOP (int64_t pixel = 0; pixel < pixels; ++pixel) answer[pixel] = answer[pixel] / flux;
  return flux;
}

/// Fill the answers of unweighted moments in the circle of the flux, whose answer is there.
inline void answer_of_circle_moments(double u0, double v0, const Stamp& stamp) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of(stamp.light, pixels), answer = span_of(stamp.answer, N_QUANTITIES * pixels);
  double xx = 0.0, yy = 0.0, xy = 0.0;
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0;
    for (int64_t column = 0; column < size; ++column) {
      const double u = double(column - stamp.half) - u0, part = answer[row * size + column] * light[row * size + column];
      xx += part * u * u;
      yy += part * v * v;
      xy += part * u * v;
    }
  }
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0;
    for (int64_t column = 0; column < size; ++column) {
      const int64_t pixel = row * size + column;
      const double u = double(column - stamp.half) - u0, part = answer[pixel];
      const double own[N_MOMENTS] = {part * u, part * v, part * (u * u - xx), part * (v * v - yy), part * (u * v - xy)};
      for (int quantity = 0; quantity < N_MOMENTS; ++quantity) answer[(quantity + 1) * pixels + pixel] = own[quantity];
    }
  }
}

/// Fill W g of the equations of adaptive moments into the answers; return the sum of weighted light, and add J without what W g itself
/// depends on.
inline double weigh_light(double u0, double v0, const double* moments, const Stamp& stamp, double (&jacobian)[N_MOMENTS][N_MOMENTS]) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of(stamp.light, pixels), answer = span_of(stamp.answer + pixels, N_MOMENTS * pixels);
  const double xx = moments[0], yy = moments[1], xy = moments[2];
  const Inverse inverse = inverse_of(xx, yy, xy);
  double total = 0.0;
  for (int64_t pixel = 0; pixel < N_MOMENTS * pixels; ++pixel) answer[pixel] = 0.0;
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0;
    for (int64_t column = 0; column < size; ++column) {
      const int64_t pixel = row * size + column;
      const double u = double(column - stamp.half) - u0;
      const double p = inverse.xx * u + inverse.xy * v, q = inverse.xy * u + inverse.yy * v, distance = p * u + q * v;
      if (distance > WEIGHT_REACH * WEIGHT_REACH) continue;
      const double weight = std::exp(-0.5 * distance), weighted = weight * light[pixel];
      const double g[N_MOMENTS] = {u, v, u * u - 0.5 * xx, v * v - 0.5 * yy, u * v - 0.5 * xy};
      // d log W / d parameters.
      const double slope[N_MOMENTS] = {p, q, 0.5 * p * p, 0.5 * q * q, p * q};
      total += weighted;
      for (int a = 0; a < N_MOMENTS; ++a) {
        answer[a * pixels + pixel] = weight * g[a];
        for (int b = 0; b < N_MOMENTS; ++b) jacobian[a][b] += weighted * g[a] * slope[b];
      }
      // d g / d parameters.
      jacobian[2][0] -= 2.0 * weighted * u;
      jacobian[3][1] -= 2.0 * weighted * v;
      jacobian[4][0] -= weighted * v;
      jacobian[4][1] -= weighted * u;
    }
  }
  return total;
}

/// Fill the answers of adaptive moments; moments are those of the star (xx, yy, xy).
inline void answer_of_adaptive_moments(double u0, double v0, const double* moments, const Stamp& stamp) {
  const int64_t pixels = stamp.size * stamp.size;
  double jacobian[N_MOMENTS][N_MOMENTS] = {}, inverse[N_MOMENTS][N_MOMENTS];
  const double total = weigh_light(u0, v0, moments, stamp, jacobian);
  for (int a = 0; a < N_MOMENTS; ++a) jacobian[a][a] -= a < 2 ? total : 0.5 * total;
  invert(jacobian, inverse);
  Span<double> answer[] = {span_of(stamp.answer + pixels, pixels), span_of(stamp.answer + 2 * pixels, pixels),
                           span_of(stamp.answer + 3 * pixels, pixels), span_of(stamp.answer + 4 * pixels, pixels),
                           span_of(stamp.answer + 5 * pixels, pixels)};
  LOOP (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const double g[N_MOMENTS] = {answer[0][pixel], answer[1][pixel], answer[2][pixel], answer[3][pixel], answer[4][pixel]};
    for (int a = 0; a < N_MOMENTS; ++a) {
      double change = 0.0;
      for (int b = 0; b < N_MOMENTS; ++b) change -= inverse[a][b] * g[b];
      answer[a][pixel] = change;
    }
  }
}

/// The place of a star: its pixel, and its centre from that of the pixel.
struct StarPlace {
  int64_t row, column;
  double u0, v0;
};

inline StarPlace place_of(const Stars& stars, int64_t star) {
  const double x = stars.x[star], y = stars.y[star], column = std::floor(x + 0.5), row = std::floor(y + 0.5);
  return {int64_t(row), int64_t(column), x - column, y - row};
}

/// Fill the light of a star and the answers of its quantities; return its flux in the circle.
inline double answer_of_star(const Stars& stars, int64_t star, const StarPlace& place, const Stamp& stamp) {
  draw_star(place.u0, place.v0, stars.fractions, stars.covariances + 3 * star * stars.n_components, stars.n_components, stamp.size,
            span_of(stamp.light, stamp.size * stamp.size));
  const double flux = answer_of_flux(place.u0, place.v0, stars.radius, stamp);
  if (stars.adaptive) answer_of_adaptive_moments(place.u0, place.v0, stars.moments + 3 * star, stamp);
  else answer_of_circle_moments(place.u0, place.v0, stamp);
  return flux;
}

}  // namespace
}  // namespace permil::compare
