// Arguments and results of the kernels of this package. Arrays lie in memory row by row; [a, b] names their axes.
#pragma once
#include <cstdint>

namespace permil::spots {

/// An image less its background, and which of its pixels count, [y, x].
struct Image {
  const float *signal, *variance;
  const bool* usable;
  int64_t ny, nx;
};

/// Places in pixels.
struct Places {
  const double *x, *y;
  int64_t count;
};

/// Noise common to the pixels of a row; see permil.spots.background.RowNoise.
struct RowNoise {
  const int64_t* starts;   // [strip]
  int64_t n_strips;
  const double* variance;  // [y, strip]
};

/// Row noise around spots; see permil.spots.background.RowErrors.
struct RowErrors {
  RowNoise noise;
  const int64_t* first_row;  // [spot]
  const double* answer;      // [spot, line, strip]
  int64_t n_lines;
};

/// Sums over circles, [spot, circle]: light, variance, area, and the covariance with the background through the rows.
struct CircleSums {
  double *flux, *squared, *area, *shared;
};

/// Boxes of the background's mesh: their edges and their centres, pixels.
struct Boxes {
  int64_t rows, columns;
  const int64_t *row_edges, *column_edges;  // [row + 1], [column + 1]
  const double *centres_y, *centres_x;      // [row], [column]
};

/// Planes fitted to boxes; see permil.spots.background.Background.
struct Planes {
  double *level, *error;  // [row, column]
  double* answer;         // [power (u^2, v^2, u v), row, column]
  double* row_answer;     // [y, column, strip]
};

/// A mesh of planes with the matrices of its spline; see permil.spots.background.Background.
struct Mesh {
  int64_t rows, columns;
  const double* curvature;            // [direction (u, v, mixed), row, column]
  const double *slope_v, *bend_v;     // [row, row], first and second derivatives
  const double *slope_u, *bend_u;     // [column, column]
  const double* plane_error;          // [row, column]
  const int64_t* row_edges;           // [row + 1]
  const double* row_answer;           // [y, column, strip]
};

/// Places on a mesh: the weights of its nodes, and the nearest one.
struct MeshPlaces {
  int64_t count;
  const double *rows, *columns;                // [place, row], [place, column]
  const int64_t *nearest_row, *nearest_column;  // [place]
};

/// Measurements of fluxes; see permil.spots.flux_model.FluxEquations.
struct Measurements {
  int64_t count;
  const int64_t *spot, *exposure;
  const int32_t* index;   // [measurement, coefficient]
  const double* values;   // [measurement, coefficient]
  int64_t width;
  const double *weight, *residual, *factor;
};

/// Normal equations; see permil.spots.flux_model.FluxEquations.
struct Equations {
  double *spot_weight, *spot_side;  // [spot]
  double* coupling;                 // [spot, other]
  double* other_weight;             // [other, other]
  double* other_side;               // [other]
  int64_t exposures, others;
};

}  // namespace permil::spots
