// The true beam; see permil.simulate.projector.
#pragma once
#include "_kernels/mathematics.hpp"
#include "simulate/_kernels/structs.hpp"

namespace permil::simulate {
namespace {

/// Return the exponent of the plateau at a squared radius.
inline double plateau_exponent(const Beam& beam, double squared) {
  const double fourth = squared * squared;
  return -beam.slope * squared * fourth / (fourth + beam.turn);
}

/// Return the ring at a squared radius.
inline double ring(const Beam& beam, double squared) {
  const double beyond = std::sqrt(squared) - beam.ring_radius;
  return at_least(beyond > 0.0 ? 1.0 - beam.ring_break * beyond : 1.0, 0.0);
}

/// Four knots from `first` on, and the weights of the cubic B-spline there; all zero outside the grid.
struct SplineWeights {
  int64_t first;
  double weights[4];
};

inline SplineWeights spline_weights(double place, double spacing, int64_t knots) {
  const double knot = place / spacing + 0.5 * double(knots - 1), whole = std::floor(knot);
  if (!(whole >= 1.0 && whole + 2.0 < double(knots))) return {0, {0.0, 0.0, 0.0, 0.0}};
  const double t = knot - whole, cube = t * t * t / 6.0, rest = 1.0 - t;
  return {int64_t(whole) - 1,
          {rest * rest * rest / 6.0, 2.0 / 3.0 - t * t + 3.0 * cube, 2.0 / 3.0 - rest * rest + 0.5 * rest * rest * rest, cube}};
}

/// Return the beam at a place.
inline double beam_at(const Beam& beam, double x, double y) {
  const auto knots = span_of(beam.knots, beam.n_x * beam.n_y);
  const SplineWeights along_x = spline_weights(x, beam.spacing, beam.n_x), along_y = spline_weights(y, beam.spacing, beam.n_y);
  const double squared = beam.stretch_x * (x * x) + beam.stretch_y * (y * y);
  double structure = 0.0;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      structure += along_x.weights[i] * along_y.weights[j] * knots[(along_x.first + i) * beam.n_y + along_y.first + j];
  return std::exp(plateau_exponent(beam, squared)) * ring(beam, squared) * beam.scale * (1.0 + structure);
}

/// Fill first knots and weights of the columns.
inline void take_columns(const Beam& beam, const BeamColumns& columns) {
  for (int64_t column = 0; column < columns.count; ++column) {
    const SplineWeights own = spline_weights(columns.places[column], beam.spacing, beam.n_y);
    columns.first[column] = own.first;
    for (int knot = 0; knot < 4; ++knot) columns.weights[knot * columns.count + column] = own.weights[knot];
  }
}

/// Fill a row of a grid whose first coordinate is that of the row and whose second that of the column.
inline void fill_beam_row(const Beam& beam, double x, const BeamColumns& columns, Span<float> levels) {
  const int64_t n = columns.count;
  const SplineWeights own = spline_weights(x, beam.spacing, beam.n_x);
  const auto knots = span_of(beam.knots + own.first * beam.n_y, 4 * beam.n_y);
  const auto y = span_of(columns.places, n);
  const auto first = span_of(columns.first, n);
  const auto weights = span_of(columns.weights, 4 * n), exponent = span_of(columns.exponent, n), level = span_of(columns.level, n);
  const auto line = span_of(columns.line, beam.n_y);
  const double w0 = own.weights[0], w1 = own.weights[1], w2 = own.weights[2], w3 = own.weights[3], from_row = beam.stretch_x * (x * x);
  LOOP (int64_t k = 0; k < beam.n_y; ++k)
    line[k] = w0 * knots[k] + w1 * knots[beam.n_y + k] + w2 * knots[2 * beam.n_y + k] + w3 * knots[3 * beam.n_y + k];
  LOOP (int64_t column = 0; column < n; ++column) {
    const double squared = from_row + beam.stretch_y * (y[column] * y[column]);
    exponent[column] = plateau_exponent(beam, squared);
    level[column] = ring(beam, squared);
  }
  for (int64_t column = 0; column < n; ++column) exponent[column] = std::exp(exponent[column]);
  LOOP (int64_t column = 0; column < n; ++column) {
    const int64_t k = first[column];
    const double structure = weights[column] * line[k] + weights[n + column] * line[k + 1] + weights[2 * n + column] * line[k + 2] +
                             weights[3 * n + column] * line[k + 3];
    levels[column] = float(exponent[column] * level[column] * beam.scale * (1.0 + structure));
  }
}

}  // namespace
}  // namespace permil::simulate
