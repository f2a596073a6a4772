// A tensor cubic B-spline along lines: between two lines of its lattice it is one polynomial of degree six.
#pragma once
#include "_kernels/span.hpp"
#include "beam/_kernels/kernels.hpp"

namespace permil::beam {
namespace {

constexpr int POWERS = 7;

/// Fill the weights [spline, power] of the four cubic B-splines at s + slope k as polynomials in k.
inline void fill_weights(double s, double slope, double (&weights)[4][4]) {
  const double r = 1.0 - s;
  // Value, first derivative, half the second and a sixth of the third one, times 6.
  const double own[4][4] = {{r * r * r, -3.0 * r * r, 3.0 * r, -1.0},
                            {4.0 - 3.0 * s * s * (1.0 + r), 3.0 * s * (3.0 * s - 4.0), 9.0 * s - 6.0, 3.0},
                            {4.0 - 3.0 * r * r * (1.0 + s), 3.0 + 6.0 * s - 9.0 * s * s, 3.0 - 9.0 * s, -3.0},
                            {s * s * s, 3.0 * s * s, 3.0 * s, 1.0}};
  double factor = 1.0 / 6.0;
  for (int power = 0; power < 4; ++power) {
    for (int spline = 0; spline < 4; ++spline) weights[spline][power] = own[spline][power] * factor;
    factor *= slope;
  }
}

/// A place in the lattice, in steps: the cell, not at the border, and where in it.
struct Place {
  int64_t cell;
  double within;
};

inline Place place_of(double place, int64_t n) {
  const double not_below = place > 1.0 ? place : 1.0, last = double(n - 3);
  const int64_t cell = int64_t(not_below < last ? not_below : last);
  return {cell, place - double(cell)};
}

/// Fill the coefficients of the spline along a line through a cell by power of k: x + slope_x k and y + slope_y k, in steps.
inline void fill_polynomial(const Table& table, const Place& x, const Place& y, double slope_x, double slope_y, double (&polynomial)[POWERS]) {
  double along_x[4][4], along_y[4][4];
  fill_weights(x.within, slope_x, along_x);
  fill_weights(y.within, slope_y, along_y);
  for (double& each : polynomial) each = 0.0;
  for (int m = 0; m < 4; ++m) {
    const auto own = span_of(table.coefficients + (x.cell - 1 + m) * table.ny + y.cell - 1, 4);
    double across[4] = {0.0, 0.0, 0.0, 0.0};
    for (int n = 0; n < 4; ++n)
      for (int power = 0; power < 4; ++power) across[power] += own[n] * along_y[n][power];
    for (int first = 0; first < 4; ++first)
      for (int second = 0; second < 4; ++second) polynomial[first + second] += along_x[m][first] * across[second];
  }
}

/// Return how many columns lead from a place within a cell to the next line of the lattice.
inline double columns_to_line(double within, double slope) {
  if (slope == 0.0) return __builtin_inf();
  return __builtin_ceil(((slope > 0.0 ? 1.0 : 0.0) - within) / slope);
}

/// The columns of a row that lie in a convex hull, the last one included.
struct Part {
  int64_t first, last;
};

inline Part part_inside(const Frame& frame, const HalfPlanes& hull, double row_x, double row_y) {
  const auto sides = span_of(hull.sides, 3 * hull.count);
  double low = 0.0, high = double(frame.columns) - 1.0;
  for (int64_t side = 0; side < 3 * hull.count; side += 3) {
    const double height = sides[side] * row_x + sides[side + 1] * row_y + sides[side + 2];
    const double slope = sides[side] * frame.matrix[0] + sides[side + 1] * frame.matrix[2];
    const double end = -height / slope;
    if (slope > 0.0) high = end < high ? end : high;
    else if (slope < 0.0) low = end > low ? end : low;
    else if (height > 0.0) high = -1.0;
  }
  // Along a side of the hull the ends can be farther than integers reach.
  const double columns = double(frame.columns);
  return {int64_t(__builtin_ceil(low < columns ? low : columns)), high >= 0.0 ? int64_t(high) : -1};
}

void fill_image(const Table& table, const Frame& frame, const HalfPlanes& hull, float* image) {
  const double slope_x = frame.matrix[0] / table.step, slope_y = frame.matrix[2] / table.step;
  for (int64_t number = 0; number < frame.rows; ++number) {
    const double row_x = frame.origin_x + frame.matrix[1] * double(number), row_y = frame.origin_y + frame.matrix[3] * double(number);
    const auto row = span_of(image + number * frame.columns, frame.columns);
    // A row of the image is a straight line in u: it lies in the convex hull from one column to another.
    const Part inside = part_inside(frame, hull, row_x, row_y);
    for (int64_t column = 0; column < inside.first; ++column) row[column] = __builtin_nanf("");
    for (int64_t column = larger(inside.last + 1, inside.first); column < frame.columns; ++column) row[column] = __builtin_nanf("");
    const double at_x = (row_x - table.origin_x) / table.step, at_y = (row_y - table.origin_y) / table.step;
    for (int64_t column = inside.first; column <= inside.last;) {
      const Place x = place_of(at_x + slope_x * double(column), table.nx), y = place_of(at_y + slope_y * double(column), table.ny);
      // A pixel just behind a line may fall to the polynomial before it, which goes on smoothly.
      const double to_x = columns_to_line(x.within, slope_x), to_y = columns_to_line(y.within, slope_y);
      const double to_line = to_x < to_y ? to_x : to_y, to_end = double(inside.last + 1 - column);
      const int64_t length = larger(1, int64_t(to_line < to_end ? to_line : to_end));
      double c[POWERS];
      fill_polynomial(table, x, y, slope_x, slope_y, c);
      const auto part = part_of(row, column, length);
      LOOP (int32_t index = 0; index < int32_t(length); ++index) {
        const double k = index;
        part[index] = float(c[0] + k * (c[1] + k * (c[2] + k * (c[3] + k * (c[4] + k * (c[5] + k * c[6]))))));
      }
      column += length;
    }
  }
}

void values_at(const Table& table, const double* points, int64_t n, double* values) {
  const auto own = span_of(points, 2 * n);
  const auto out = span_of(values, n);
  for (int64_t point = 0; point < n; ++point) {
    const Place x = place_of((own[2 * point] - table.origin_x) / table.step, table.nx);
    const Place y = place_of((own[2 * point + 1] - table.origin_y) / table.step, table.ny);
    double polynomial[POWERS];
    fill_polynomial(table, x, y, 0.0, 0.0, polynomial);
    out[point] = polynomial[0];
  }
}

}  // namespace
}  // namespace permil::beam
