// A star on a stamp: its light, and the response of its measurement to changes of the light; see permil.compare.stars.response.
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
  const double square = u * u + v * v, inner = radius - 0.7072, outer = radius + 0.7072;
  if (square <= inner * inner && inner > 0.0) return 1.0;
  if (square >= outer * outer) return 0.0;
  const double left = u - 0.5, right = u + 0.5, low = v - 0.5, high = v + 0.5;
  return corner(right, high, radius) - corner(left, high, radius) - corner(right, low, radius) + corner(left, low, radius);
}

inline Border border_at(double place, double radius) {
  const double distance = at_most(std::fabs(place), radius), reach = std::sqrt(at_least(radius * radius - distance * distance, 0.0));
  return {place, distance, reach, under_circle(distance, radius), under_circle(reach, radius)};
}

/// Return `corner` at two borders.
inline double corner(const Border& x, const Border& y) {
  const double sign = x.place * y.place >= 0.0 ? 1.0 : -1.0;
  return y.reach < x.distance ? sign * (y.reach * y.distance + x.area - y.area_of_reach) : sign * x.distance * y.distance;
}

/// Fill the part of each pixel of the stamp that lies in a circle, as `circle_part`; borders are shared by pixels.
inline void fill_circle(double u0, double v0, double radius, const Stamp& stamp, Span<double> part) {
  const int64_t size = stamp.size;
  const double inner = at_least(radius - 0.7072, 0.0), outer = radius + 0.7072;
  const auto along = span_of(stamp.borders, 2 * (size + 1));
  for (int64_t border = 0; border <= size; ++border) {
    along[border] = border_at(double(border - stamp.half) - u0 - 0.5, radius);
    along[size + 1 + border] = border_at(double(border - stamp.half) - v0 - 0.5, radius);
  }
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0;
    const Border &low = along[size + 1 + row], &high = along[size + 2 + row];
    for (int64_t column = 0; column < size; ++column) {
      const double u = double(column - stamp.half) - u0, square = u * u + v * v;
      const Border &left = along[column], &right = along[column + 1];
      part[row * size + column] = square < inner * inner    ? 1.0
                                  : square >= outer * outer ? 0.0
                                                            : corner(right, high) - corner(left, high) - corner(right, low) + corner(left, low);
    }
  }
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
        const double v = double(row - half) - v0;
        const int32_t n = int32_t(smaller(PART, size - first)), offset = int32_t(first - half);
        const auto own = part_of(light, row * size + first, n);
        LOOP (int32_t pixel = 0; pixel < n; ++pixel) {
          const double u = double(offset + pixel) - u0;
          own[pixel] += height * fast_exp(-0.5 * (inverse.xx * u * u + inverse.yy * v * v) - inverse.xy * u * v);
        }
      }
  }
}

/// Fill the answer of the flux in a circle; return the flux.
inline double answer_of_flux(double u0, double v0, double radius, const Stamp& stamp) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of(stamp.light, pixels), answer = span_of(stamp.answer, pixels);
  fill_circle(u0, v0, radius, stamp, answer);
  double flux = 0.0;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) flux += answer[pixel] * light[pixel];
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

/// Sums of weighted light times powers of place, [power of u][power of v].
struct Moments {
  double of[5][5];
};

/// Fill the weights W of adaptive moments, and return the sums of weighted light up to the fourth power of place.
inline Moments weigh_light(double u0, double v0, const Inverse& inverse, const Stamp& stamp, Span<double> weight) {
  const int64_t size = stamp.size;
  const auto light = span_of<const double>(stamp.light, size * size);
  // Sums over the rows of weighted light times powers of v, for each column.
  const auto sums = span_of(stamp.work, 5 * size);
  for (int64_t at = 0; at < 5 * size; ++at) sums[at] = 0.0;
  const int32_t half = int32_t(stamp.half), n = int32_t(size);
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0;
    const auto own = part_of(weight, row * size, size);
    const auto lit = part_of(light, row * size, size);
    LOOP (int32_t column = 0; column < n; ++column) {
      const double u = double(column - half) - u0;
      const double distance = (inverse.xx * u + inverse.xy * v) * u + (inverse.xy * u + inverse.yy * v) * v;
      const double value = fast_exp(-0.5 * distance);
      own[column] = distance > WEIGHT_REACH * WEIGHT_REACH ? 0.0 : value;
    }
    for (int power = 0; power < 5; ++power) {
      double factor = 1.0;
      for (int each = 0; each < power; ++each) factor *= v;
      const auto total = part_of(sums, power * size, size);
      LOOP (int32_t column = 0; column < n; ++column) total[column] += own[column] * lit[column] * factor;
    }
  }
  Moments moments{};
  for (int64_t column = 0; column < size; ++column) {
    const double u = double(column - stamp.half) - u0;
    for (int of_v = 0; of_v < 5; ++of_v) {
      double term = sums[of_v * size + column];
      for (int of_u = 0; of_u + of_v < 5; ++of_u, term *= u) moments.of[of_u][of_v] += term;
    }
  }
  return moments;
}

/// Return J = d(sum W I g) / d(parameters) of adaptive moments, with sums of powers for those of g and of d log W / d parameters.
inline void fill_jacobian(const Moments& sums, const double* moments, const Inverse& inverse, double (&jacobian)[N_MOMENTS][N_MOMENTS]) {
  const auto& of = sums.of;
  // g is u, v, and squares less half a moment: powers of u and v, and what is subtracted.
  constexpr int POWERS[N_MOMENTS][2] = {{1, 0}, {0, 1}, {2, 0}, {0, 2}, {1, 1}};
  const double less[N_MOMENTS] = {0.0, 0.0, 0.5 * moments[0], 0.5 * moments[1], 0.5 * moments[2]};
  const double a = inverse.xx, b = inverse.xy, c = inverse.yy;
  for (int row = 0; row < N_MOMENTS; ++row) {
    const int i = POWERS[row][0], j = POWERS[row][1];
    const double u = of[i + 1][j] - less[row] * of[1][0], v = of[i][j + 1] - less[row] * of[0][1];
    const double uu = of[i + 2][j] - less[row] * of[2][0], vv = of[i][j + 2] - less[row] * of[0][2], uv = of[i + 1][j + 1] - less[row] * of[1][1];
    // d log W / d parameters: p, q, p^2 / 2, q^2 / 2 and p q, with p = a u + b v and q = b u + c v.
    jacobian[row][0] = a * u + b * v;
    jacobian[row][1] = b * u + c * v;
    jacobian[row][2] = 0.5 * (a * a * uu + 2.0 * a * b * uv + b * b * vv);
    jacobian[row][3] = 0.5 * (b * b * uu + 2.0 * b * c * uv + c * c * vv);
    jacobian[row][4] = a * b * uu + (a * c + b * b) * uv + b * c * vv;
  }
  // d g / d parameters.
  jacobian[2][0] -= 2.0 * of[1][0];
  jacobian[3][1] -= 2.0 * of[0][1];
  jacobian[4][0] -= of[0][1];
  jacobian[4][1] -= of[1][0];
  for (int row = 0; row < N_MOMENTS; ++row) jacobian[row][row] -= row < 2 ? of[0][0] : 0.5 * of[0][0];
}

/// Fill the answers of adaptive moments; moments are those of the star (xx, yy, xy).
inline void answer_of_adaptive_moments(double u0, double v0, const double* moments, const Stamp& stamp) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto weight = span_of(stamp.answer + N_MOMENTS * pixels, pixels);
  const double xx = 0.5 * moments[0], yy = 0.5 * moments[1], xy = 0.5 * moments[2];
  const Inverse of_weight = inverse_of(moments[0], moments[1], moments[2]);
  double jacobian[N_MOMENTS][N_MOMENTS], inverse[N_MOMENTS][N_MOMENTS];
  fill_jacobian(weigh_light(u0, v0, of_weight, stamp, weight), moments, of_weight, jacobian);
  invert(jacobian, inverse);
  const int32_t half = int32_t(stamp.half), n = int32_t(size);
  for (int64_t row = 0; row < size; ++row) {
    const double v = double(row - stamp.half) - v0, vv = v * v - yy;
    // The last answer takes the place of the weights.
    for (int quantity = 0; quantity < N_MOMENTS; ++quantity) {
      const double* const change = inverse[quantity];
      const double by_one = change[1] * v + change[3] * vv - change[2] * xx - change[4] * xy, by_u = change[0] + change[4] * v, by_uu = change[2];
      const auto own = span_of<const double>(stamp.answer + N_MOMENTS * pixels + row * size, size);
      const auto answer = span_of(stamp.answer + (quantity + 1) * pixels + row * size, size);
      LOOP (int32_t column = 0; column < n; ++column) {
        const double u = double(column - half) - u0;
        answer[column] = -own[column] * (by_one + (by_u + by_uu * u) * u);
      }
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
