// Sums over circles around spots.
#pragma once
#include <limits>

#include "_kernels/mathematics.hpp"
#include "spots/_kernels/structs.hpp"

namespace permil::spots {
namespace {

/// Return the area of a rectangle in the first quadrant that lies in the circle around the origin.
inline double quadrant_overlap(double x_low, double x_high, double y_low, double y_high, double radius) {
  if (x_high <= x_low || y_high <= y_low) return 0.0;
  const double squared = radius * radius;
  // Left of `full` the circle passes above the rectangle, right of `empty` below it.
  const double full = at_most(at_least(std::sqrt(at_least(squared - y_high * y_high, 0.0)), x_low), x_high);
  const double empty = at_most(at_least(std::sqrt(at_least(squared - y_low * y_low, 0.0)), x_low), x_high);
  return (full - x_low) * (y_high - y_low) + under_circle(empty, radius) - under_circle(full, radius) - y_low * (empty - full);
}

/// Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle.
inline double pixel_overlap(double u, double v, double radius) {
  u = std::fabs(u);
  v = std::fabs(v);
  const double x_low = u - 0.5, x_high = u + 0.5, y_low = v - 0.5, y_high = v + 0.5;
  // A pixel across an axis is folded along it; the second parts are empty for all others.
  double area = quadrant_overlap(at_least(x_low, 0.0), x_high, at_least(y_low, 0.0), y_high, radius);
  area += quadrant_overlap(0.0, -x_low, at_least(y_low, 0.0), y_high, radius);
  area += quadrant_overlap(at_least(x_low, 0.0), x_high, 0.0, -y_low, radius);
  return area + quadrant_overlap(0.0, -x_low, 0.0, -y_low, radius);
}

/// Return the columns first to last of a strip that lie between two columns.
inline void limit_to_strip(const RowNoise& noise, int64_t strip, int64_t& first, int64_t& last) {
  const auto starts = span_of(noise.starts, noise.n_strips);
  first = larger(first, starts[strip]);
  if (strip + 1 < noise.n_strips) last = smaller(last, starts[strip + 1] - 1);
}

/// Return the answer of the background at a spot to the level of a strip in a row; 0 for rows beyond those that are known.
inline double answer_of(const RowErrors& errors, int64_t spot, int64_t row, int64_t strip) {
  const int64_t line = row - errors.first_row[spot];
  if (line < 0 || line >= errors.n_lines) return 0.0;
  return errors.answer[(spot * errors.n_lines + line) * errors.noise.n_strips + strip];
}

/// Pixels of a row: their distance from the centre of the circles (infinite for those that do not count), signal, and variance.
struct RowOfPixels {
  Span<double> distance, light, noise;
};

/// Take columns first to last of a row; `level` is the part of the variance that its pixels have in common.
inline void take_row(const Image& image, int64_t row, int64_t first, int64_t last, double x, double v, double level,
                     const RowOfPixels& pixels) {
  const auto usable = span_of(image.usable + row * image.nx, image.nx);
  const auto signal = span_of(image.signal + row * image.nx, image.nx), variance = span_of(image.variance + row * image.nx, image.nx);
  // Whole numbers of 32 bits become floating-point ones in vectors.
  const int32_t begin = int32_t(first), n = int32_t(last - first + 1);
  LOOP (int32_t pixel = 0; pixel < n; ++pixel) {
    const double u = double(begin + pixel) - x;
    pixels.distance[pixel] = std::sqrt(u * u + v * v);
  }
  for (int64_t column = first; column <= last; ++column)
    if (!usable[column]) pixels.distance[column - first] = std::numeric_limits<double>::infinity();
  LOOP (int64_t column = first; column <= last; ++column) pixels.light[column - first] = signal[column];
  LOOP (int64_t column = first; column <= last; ++column) pixels.noise[column - first] = double(variance[column]) - level;
}

/// Add columns first to last of a row to the light and variance in a circle; return the area of them in it.
inline double add_row_to_circle(const RowOfPixels& pixels, int64_t first, int64_t last, double x, double v, double radius, double& flux,
                                double& squared) {
  const double inner = radius - std::sqrt(0.5), outer = radius + std::sqrt(0.5);
  const int64_t begin = first_pixel(x - radius - 1.0 - double(first), last + 1 - first);
  const int64_t end = last_pixel(x + radius + 1.0 - double(first), last + 1 - first);
  double light = flux, noise = squared, area = 0.0;
  for (int64_t pixel = begin; pixel <= end; ++pixel) {
    for (; pixel <= end && pixels.distance[pixel] <= inner; ++pixel) {
      light += pixels.light[pixel];
      noise += pixels.noise[pixel];
      area += 1.0;
    }
    if (pixel > end || pixels.distance[pixel] >= outer) continue;
    const double part = pixel_overlap(double(first + pixel) - x, v, radius);
    light += part * pixels.light[pixel];
    noise += part * part * pixels.noise[pixel];
    area += part;
  }
  flux = light;
  squared = noise;
  return area;
}

/// Add what of the circles around a spot lies in columns first to last of a row, which belong to one strip.
inline void add_part_of_row(const Image& image, const RowErrors& errors, const Places& places, int64_t spot, int64_t row, int64_t strip,
                            int64_t first, int64_t last, Span<const double> radii, int64_t n, const RowOfPixels& pixels,
                            const CircleSums& sums) {
  const double level = errors.noise.variance[row * errors.noise.n_strips + strip], background = answer_of(errors, spot, row, strip);
  const double x = places.x[spot], v = double(row) - places.y[spot];
  take_row(image, row, first, last, x, v, level, pixels);
  for (int64_t circle = 0; circle < n; ++circle) {
    if (std::fabs(v) > radii[circle] + 1.0) continue;
    const int64_t own = spot * n + circle;
    const double area = add_row_to_circle(pixels, first, last, x, v, radii[circle], sums.flux[own], sums.squared[own]);
    sums.area[own] += area;
    sums.squared[own] += level * (area * area);
    sums.shared[own] += level * area * background;
  }
}

}  // namespace
}  // namespace permil::spots
