// Arguments and results of the kernels of this package. Arrays lie in memory row by row; [a, b] names their axes.
#pragma once
#include <cstdint>

namespace permil::compare {

/// Quantities of a star, kinds of a flat, and parameters of adaptive moments; see permil.compare.stars.response.
constexpr int FLUX = 0, DX = 1, XX = 3, N_QUANTITIES = 6, N_KINDS = 3, N_MOMENTS = 5;
/// Quantities whose weighted sums have maps: flux, dx, dy, xx, yy.
constexpr int N_SPREAD = 5;

/// Stars; see permil.compare.stars.response.StarShapes.
struct Stars {
  int64_t count;
  const double *x, *y, *glow;      // [star]
  int64_t n_components;
  const double* fractions;         // [component]
  const double* covariances;       // [star, component, (xx, yy, xy)]
  const double* moments;           // [star, (xx, yy, xy)]
  double radius;
  bool adaptive;
  int64_t half;
};

/// A border of pixels along an axis, from the centre of a circle: the place, its distance limited to the radius, how far the circle
/// reaches there, and the integrals of `under_circle` up to both.
struct Border {
  double place, distance, reach, area, area_of_reach;
};

/// Memory for one star: square stamps of `size` pixels a side.
struct Stamp {
  int64_t half, size;
  double* light;
  double* answer;    // [quantity]
  double* border_x;  // light on the border of a pixel with the next one in its row
  double* border_y;  // with that in the next row
  double* kernels;   // [kind, quantity]
  double* work;
  Border* borders;  // [axis, side of a pixel]
};
constexpr int N_STAMPS = 1 + N_QUANTITIES + 2 + N_KINDS * N_QUANTITIES + 1;

/// Maps of bands, [band, y, x].
struct Maps {
  const float *excess, *potential;
  int64_t ny, nx, bands;
};

/// A flat, its variance, and its usable pixels, [y, x].
struct Flat {
  const double *excess, *variance;
  const bool* usable;
  int64_t ny, nx;
};

/// Sums of maps over square cells, [kind of map, kind of sum, band, row, column], on a detector of ny times nx pixels.
struct CellMaps {
  float* sums;
  int64_t bands, rows, columns, cell, ny, nx;
};

/// Values of cells of a map, and the tiles that they belong to.
struct Cells {
  int64_t count;
  const double *x, *y, *level;
  const int64_t* tile;
};

/// Digits of 11 bits of a number of 32 bits, and memory for where the numbers with each of their values start.
constexpr int N_DIGITS = 3, BITS_OF_DIGIT = 11;
constexpr int64_t N_OF_DIGIT = int64_t(1) << BITS_OF_DIGIT, N_STARTS = N_DIGITS * N_OF_DIGIT;

/// Annuli of equal width around an axis, from number `first` on.
struct Annuli {
  double x, y, width;
  int64_t first, count;
};

}  // namespace permil::compare
