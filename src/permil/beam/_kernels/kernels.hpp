// Entry points of the kernels of this package, once for each level of instructions, and their arguments.
#pragma once
#include <cstdint>

namespace permil::beam {

/// A function on a lattice as the coefficients [x, y] of a tensor cubic B-spline; see permil.beam.model.SplineTable.
struct Table {
  const double* coefficients;
  int64_t nx, ny;
  double origin_x, origin_y, step;
};

/// An image whose pixels map linearly to the beam's coordinates, mm: u = origin + matrix (column, row).
struct Frame {
  int64_t rows, columns;
  double origin_x, origin_y;
  const double* matrix;  // [2, 2]
};

/// Half planes a x + b y + c <= 0 whose intersection is a convex hull, [side, 3].
struct HalfPlanes {
  int64_t count;
  const double* sides;
};

struct Kernels {
  /// Fill an image with the spline; NaN outside the hull.
  void (*fill_image)(const Table&, const Frame&, const HalfPlanes&, float* image);
  /// Fill the values of the spline at points [n, 2].
  void (*values_at)(const Table&, const double* points, int64_t n, double* values);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::beam
