// Entry points of the kernels of this package, once for each level of instructions.
#pragma once
#include "spots/_kernels/structs.hpp"

namespace permil::spots {

struct Kernels {
  /// Add measurements to normal equations; `memory` holds a row of coefficients.
  void (*add_measurements)(const Measurements&, double* memory, const Equations&);
  /// Add the light of spots to sums over circles of increasing radii; `memory` holds three rows.
  void (*sum_circles)(const Image&, const Places&, const double* radii, int64_t n_radii, const RowErrors&, double* memory, const CircleSums&);
  /// Fill centre and moments (x, y, xx, yy, xy) of spots, and their covariance; a spot that does not converge is left as it is.
  void (*measure_moments)(const Image&, const Places&, double sigma, double largest_sigma, double largest_shift, double reach,
                          const double* background_error, const RowErrors&, double* parameters, double* covariance);
  /// Fit a plane to each box; `along` holds the columns, `memory` twice the rows and strips of the largest one.
  void (*fit_boxes)(const Image&, const Boxes&, const RowNoise&, double* along, double* memory, int64_t n_memory, const Planes&);
  /// Fill the variance of the background at places, and its answer to `n_lines` rows from `first_row` on; `memory` holds the strips.
  void (*propagate)(const Mesh&, const RowNoise&, const MeshPlaces&, const int64_t* first_row, double* answer, int64_t n_lines, double* memory,
                    double* variance);
  /// Fill means of the usable ones among 2 x 2 pixels, and where there is none.
  void (*bin_pixels)(const Image&, float* binned, bool* empty);
  /// Clear pixels within a radius of places.
  void (*clear_discs)(const Places&, double radius, int64_t ny, int64_t nx, bool* free);
  /// Fill the mask planes within a radius of places, and whether one of the pixels there is not usable: masks of exposures have 16 bits,
  /// those of products 32.
  void (*planes_in_discs_16)(const Places&, double radius, int64_t ny, int64_t nx, const int16_t* mask, const bool* usable, int64_t* planes,
                             bool* unusable);
  void (*planes_in_discs_32)(const Places&, double radius, int64_t ny, int64_t nx, const int32_t* mask, const bool* usable, int64_t* planes,
                             bool* unusable);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::spots
