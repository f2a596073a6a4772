// Cubic B-splines on a uniform grid of knots, and the patterns of weather, on rows of super-pixels.
#pragma once
#include "_kernels/span.hpp"
#include "flat/joint/_kernels/kernels.hpp"

namespace permil::joint {
namespace {

constexpr double ROOT3 = 1.7320508075688772, HALF_ROOT5 = 2.23606797749979 / 2;

/// The first of four B-splines at a place, their values, and their slopes per knot.
struct Cubic {
  int32_t first;
  double values[4], slopes[4];
};

/// Return the B-splines at a place in units of the knots. The first one is one of `count`, whatever the place is.
inline Cubic cubic_at(double place, double count) {
  const double not_below = place > 1.0 ? place : 1.0, last = count - 3.0;
  const int32_t cell = int32_t(not_below < last ? not_below : last);
  const double t = place - double(cell), rest = 1.0 - t;
  return {cell - 1,
          {rest * rest * rest / 6.0, 2.0 / 3.0 - t * t + 0.5 * t * t * t, 2.0 / 3.0 - rest * rest + 0.5 * rest * rest * rest,
           t * t * t / 6.0},
          {-0.5 * rest * rest, -2.0 * t + 1.5 * t * t, 2.0 * rest - 1.5 * rest * rest, 0.5 * t * t}};
}

/// One pattern as an exposure sees it.
struct SeenPattern {
  double moved_x, moved_y;  // sign times the projector's position
  double origin_x, origin_y, spacing, sign;
  double count_x, count_y;
  int32_t n_y, start;  // B-splines along the second axis, place of the first coefficient

  Cubic along_x(double x) const { return cubic_at((x + moved_x - origin_x) / spacing, count_x); }
  Cubic along_y(double y) const { return cubic_at((y + moved_y - origin_y) / spacing, count_y); }
};

inline SeenPattern seen_in(const Patterns& patterns, const Exposures& exposures, int64_t pattern, int64_t exposure) {
  const int64_t* counts = patterns.counts + 3 * pattern;
  const double *place = patterns.places + 4 * pattern, *centre = exposures.centres + 2 * exposure;
  return {place[3] * centre[0], place[3] * centre[1], place[0], place[1], place[2], place[3],
          double(counts[0]),    double(counts[1]),    int32_t(counts[1]), int32_t(counts[2])};
}

/// B-splines of a pattern on which a tile depends: the first along each axis, and how many.
struct Window {
  int64_t first_x, number_x, first_y, number_y;
};

/// Return the B-splines of a pattern between bounds: least and largest x, least and largest y.
inline Window window_of(const double* bounds, const SeenPattern& seen) {
  const int64_t low_x = seen.along_x(bounds[0]).first, low_y = seen.along_y(bounds[2]).first;
  return {low_x, seen.along_x(bounds[1]).first + 4 - low_x, low_y, seen.along_y(bounds[3]).first + 4 - low_y};
}

/// Fill the patterns of weather (permil.flat.joint.weather.pattern_values) at a place.
inline void fill_smooth(double x, double y, const double* frame, double (&smooth)[5]) {
  const double u = (x - frame[0]) / frame[2], v = (y - frame[1]) / frame[2];
  smooth[0] = ROOT3 * u;
  smooth[1] = ROOT3 * v;
  smooth[2] = HALF_ROOT5 * (3.0 * u * u - 1.0);
  smooth[3] = 3.0 * u * v;
  smooth[4] = HALF_ROOT5 * (3.0 * v * v - 1.0);
}

/// Add a pattern to a row of logarithms.
inline void add_pattern(const SeenPattern& seen, Span<const double> vector, Span<const double> x, Span<const double> y, Span<double> result,
                        int64_t n) {
  const SeenPattern own = seen;
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    const Cubic across = own.along_x(x[pixel]), along = own.along_y(y[pixel]);
    const int32_t first = own.start + across.first * own.n_y + along.first;
    double total = result[pixel];
    for (int32_t i = 0; i < 4; ++i)
      for (int32_t j = 0; j < 4; ++j) total += across.values[i] * along.values[j] * vector[first + i * own.n_y + j];
    result[pixel] = total;
  }
}

/// Add the derivatives of a pattern with respect to the projector's position to rows of slopes.
inline void add_slopes(const SeenPattern& seen, Span<const double> vector, Span<const double> x, Span<const double> y, Span<double> slope_x,
                       Span<double> slope_y, int64_t n) {
  const SeenPattern own = seen;
  const double scale = own.sign / own.spacing;
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    const Cubic across = own.along_x(x[pixel]), along = own.along_y(y[pixel]);
    const int32_t first = own.start + across.first * own.n_y + along.first;
    double along_x = 0.0, along_y = 0.0;
    for (int32_t i = 0; i < 4; ++i) {
      double level = 0.0, slope = 0.0;
      for (int32_t j = 0; j < 4; ++j) {
        const double coefficient = vector[first + i * own.n_y + j];
        level += along.values[j] * coefficient;
        slope += along.slopes[j] * coefficient;
      }
      along_x += across.slopes[i] * level;
      along_y += across.values[i] * slope;
    }
    slope_x[pixel] += along_x * scale;
    slope_y[pixel] += along_y * scale;
  }
}

/// Rows of what the logarithms of an exposure depend on.
///
/// Memory for it: `DOUBLES_OF_SLOPES` doubles for each super-pixel, `DOUBLES_OF_PATTERN` more for each pattern.
struct Derivatives {
  double *slope_x, *slope_y;
  double* smooth;    // [pattern of weather, pixel]
  double* patterns;  // [pattern, values along x and along y, pixel]
  int64_t n;
  int32_t* firsts;  // [pattern, first B-spline along x and along y, pixel]

  auto values(int64_t pattern, int64_t which) const { return span_of(patterns + (8 * pattern + which) * n, n); }
  auto first(int64_t pattern, int64_t axis) const { return span_of(firsts + (2 * pattern + axis) * n, n); }
};

inline Derivatives derivatives_in(double* memory, int64_t n_patterns, int64_t n) {
  Derivatives rows;
  rows.n = n;
  rows.slope_x = memory;
  rows.slope_y = memory + n;
  rows.smooth = memory + 2 * n;
  rows.patterns = memory + DOUBLES_OF_SLOPES * n;
  rows.firsts = reinterpret_cast<int32_t*>(rows.patterns + 8 * n_patterns * n);
  return rows;
}

inline void fill_values(const SeenPattern& seen, Span<const double> x, Span<const double> y, const Derivatives& rows, int64_t pattern) {
  const SeenPattern own = seen;
  const int64_t n = rows.n;
  const auto first_x = rows.first(pattern, 0), first_y = rows.first(pattern, 1);
  const auto x0 = rows.values(pattern, 0), x1 = rows.values(pattern, 1), x2 = rows.values(pattern, 2), x3 = rows.values(pattern, 3);
  const auto y0 = rows.values(pattern, 4), y1 = rows.values(pattern, 5), y2 = rows.values(pattern, 6), y3 = rows.values(pattern, 7);
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    const Cubic across = own.along_x(x[pixel]);
    first_x[pixel] = across.first;
    x0[pixel] = across.values[0];
    x1[pixel] = across.values[1];
    x2[pixel] = across.values[2];
    x3[pixel] = across.values[3];
  }
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    const Cubic along = own.along_y(y[pixel]);
    first_y[pixel] = along.first;
    y0[pixel] = along.values[0];
    y1[pixel] = along.values[1];
    y2[pixel] = along.values[2];
    y3[pixel] = along.values[3];
  }
}

/// Fill the derivatives of the logarithms of an exposure.
inline void fill_derivatives(const Pixels& pixels, const Exposures& exposures, const Patterns& patterns, int64_t exposure,
                             const Derivatives& rows) {
  const int64_t n = pixels.count;
  const auto x = span_of(pixels.x, n), y = span_of(pixels.y, n);
  const auto slope_x = span_of(rows.slope_x, n), slope_y = span_of(rows.slope_y, n);
  for (int64_t pixel = 0; pixel < n; ++pixel) slope_x[pixel] = slope_y[pixel] = 0.0;
  for (int64_t pattern = 0; pattern < patterns.count; ++pattern) {
    const SeenPattern seen = seen_in(patterns, exposures, pattern, exposure);
    add_slopes(seen, span_of(patterns.vector, patterns.n_unknowns), x, y, slope_x, slope_y, n);
    fill_values(seen, x, y, rows, pattern);
  }
  if (exposures.n_smooth == 0) return;
  const double* frame = exposures.frames + 3 * exposure;
  const auto all = span_of(rows.smooth, 5 * n);
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    double smooth[5];
    fill_smooth(x[pixel], y[pixel], frame, smooth);
    for (int64_t k = 0; k < 5; ++k) all[k * n + pixel] = smooth[k];
  }
}

}  // namespace
}  // namespace permil::joint
