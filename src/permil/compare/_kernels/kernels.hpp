// Entry points of the kernels of this package, once for each level of instructions.
#pragma once
#include "compare/_kernels/structs.hpp"

namespace permil::compare {

/// Memory of a call for each star: stamps, patches of both maps, two stamps, and numbers of its rows and columns.
struct StarMemory {
  Stamp stamp;
  double *patches, *curved;
  int64_t* numbers;
};

struct Kernels {
  /// Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle.
  double (*circle_part)(double u, double v, double radius);
  /// Draw the first star, its centre at (x, y) from that of the stamp.
  void (*draw_star)(const Stars&, int64_t size, double* light);
  /// Fill the kernels [kind, quantity, y, x] of the first star, and those of even light of one per pixel; return its flux.
  double (*fill_kernels)(const Stars&, const Stamp& of_star, const Stamp& of_glow);
  /// Fill the response of each quantity of each star to maps: templates [star, quantity, kind, band], instruments [star, quantity, band].
  void (*predict_stars)(const Stars&, const Maps&, const double* unseen, const StarMemory&, double* templates, double* instruments);
  /// Add the weight of each cell in weighted sums over stars; `binned` is memory for cells
  /// [star or even light, kind, quantity, side, side].
  void (*spread_weights)(const Stars&, const double* unseen, const double* weights, const StarMemory&, double* binned, int64_t side,
                         const CellMaps&);
  /// Fill mean and variance of a flat over the light of each star, and the part of the weight that is not usable.
  void (*weigh_flat)(const Stars&, const Flat&, const Stamp&, double* seen, double* spread, double* lost);
  /// Add cells to sums and weights of annuli, [tile, annulus, (sum, weight)].
  void (*add_to_annuli)(const Cells&, const Annuli&, double* sums);
  /// Fill rows of n ascending values in the order of finite numbers, [row, n]; memory is for twice the row, and for `N_STARTS`.
  void (*give_order)(const float* numbers, const double* ascending, int64_t n_rows, int64_t n, uint64_t* items, int64_t* starts, double* rows);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::compare
