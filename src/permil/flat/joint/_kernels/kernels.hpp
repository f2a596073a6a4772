// Entry points of the kernels of this package, once for each level of instructions, and their arguments. Arrays lie in memory row by
// row; [a, b] names their axes.
#pragma once
#include <cstdint>

namespace permil::joint {

/// Patterns of light and the vector of unknowns that they are part of; see permil.flat.joint.model.JointModel.pattern_arrays.
struct Patterns {
  int64_t count;
  const int64_t* counts;  // [pattern, 3]: B-splines along the axes, place of the first coefficient
  const double* places;   // [pattern, 4]: origin, spacing, sign
  const double* vector;
  int64_t n_unknowns;
};

/// Places of super-pixels, mm.
struct Pixels {
  int64_t count;
  const double *x, *y;
};

/// Where the projector stands in each exposure, and place and half side of the patterns of weather; without weather `n_smooth` is 0.
struct Exposures {
  int64_t count;
  const double* centres;  // [exposure, 2]
  const double* frames;   // [exposure, 3]
  int64_t n_smooth;
};

/// Unknowns of each exposure besides the patterns; see permil.flat.joint.model.JointModel.further_columns.
struct Further {
  int64_t count, n_parts;
  const int64_t* columns;  // [exposure, number]
  const double* parts;     // [exposure, number, part]
};

/// B-splines on which the super-pixels of a tile depend in each exposure: the first along the first axis and how many, the same along
/// the second, [exposure, pattern, 4]. All 0 in exposures that are not lit.
using Windows = const int64_t*;

/// A square matrix of the unknowns with its upper triangle filled; its rows are `stride` apart.
struct Square {
  double* first;
  int64_t size, stride;
};

/// Sums of the rows of a tile.
struct TileSums {
  const int64_t* positions;  // [unknown], column of `sums`
  double* sums;              // [pixel, column]: sum of w x
  int64_t n_columns;
  double* moments;           // [pixel]: sum of w
  double* blocks;            // [exposure, side, side]: sum of w x x', upper triangle; null where it is not wanted
  int64_t side;
};

/// An exposure to be averaged over super-pixels.
struct ExposurePixels {
  int64_t n_columns, block;
  const float* image;    // [y, x]
  const int16_t* mask;   // [y, x]
  const float* pattern;  // [y, x]: response of a good pixel over the mean of its super-pixel; NaN where it is not good
};

namespace {

/// Pixels whose medians are found together, and rows of floats that `average` needs.
constexpr int64_t MEDIANS_TOGETHER = 512, ROWS_OF_AVERAGE = 5;
constexpr int64_t MOST_PATTERNS = 4;
constexpr int64_t DOUBLES_OF_SLOPES = 7;
/// Rows of one run of super-pixels whose products are summed together.
constexpr int64_t MOST_TOGETHER = 32;

/// Return the memory of rows of derivatives: slopes and patterns of weather, and for each pattern 8 values and the first B-splines.
inline int64_t doubles_of_derivatives(int64_t n_patterns, int64_t n_pixels) { return (DOUBLES_OF_SLOPES + 9 * n_patterns) * n_pixels; }

/// Return the length of a row whose products are summed: 16 B-splines of each pattern and the other parts, filled up to whole vectors.
inline int64_t width_of_products(int64_t n_patterns, int64_t n_parts) { return 16 * n_patterns + (n_parts + 7) / 8 * 8; }

/// Return the memory of `sum_tile`.
inline int64_t doubles_of_tile(int64_t n_patterns, int64_t n_parts, int64_t n_pixels) {
  const int64_t width = width_of_products(n_patterns, n_parts);
  return doubles_of_derivatives(n_patterns, n_pixels) + (2 * MOST_TOGETHER + width) * width;
}

}  // namespace

struct Kernels {
  /// Fill log d - f, [exposure, pixel], of scales [exposure] and coefficients of weather [exposure, n_smooth].
  void (*predict)(const Pixels&, const Exposures&, const Patterns&, const double* scales, const double* weather, double* result);
  /// Fill the values of the first pattern at places; NaN outside the area in which it is defined.
  void (*evaluate)(const Pixels&, const Patterns&, double* result);
  /// Solve for responses and robust weights; return the objective.
  double (*profile_response)(double* difference, double* weights, int64_t n_exposures, int64_t n_pixels, double threshold,
                             double* response);
  /// Fill the slopes of the logarithm along both axes, [exposure, 2, pixel], exposures `stride` apart.
  void (*slopes_along)(const Pixels&, const Exposures&, const Patterns&, double* result, int64_t stride);
  /// Add the sum of w x r, residual and weights [exposure, pixel], to the gradient; `scratch` holds `doubles_of_derivatives`.
  void (*add_gradient)(const Pixels&, const Exposures&, const Patterns&, const Further&, const double* residual, const double* weights,
                       double* gradient, double* scratch);
  /// Find the windows of a tile between bounds (x, x, y, y) in exposures that are lit, and mark all its unknowns.
  void (*mark_windows)(const double* bounds, const Exposures&, const Patterns&, const Further&, const bool* lit, int64_t* windows,
                       bool* marked);
  /// Sum the rows of a tile, weights [exposure, pixel]; `scratch` holds `doubles_of_tile`.
  void (*sum_tile)(const Pixels&, const double* weights, const Exposures&, const Patterns&, const Further&, Windows, const TileSums&,
                   double* scratch);
  /// Add the blocks of a tile to the upper triangle of a matrix of the unknowns, in its rows from low to high.
  void (*add_blocks)(const Square&, const double* blocks, int64_t n_exposures, int64_t side, Windows,
                     const int64_t* counts, int64_t n_patterns, const Further&, int64_t low, int64_t high);
  /// Subtract rows [n_rows, n_columns] of a symmetric product, of unknowns from columns[first] on, from the upper triangle of a matrix.
  void (*subtract_rows)(const Square&, const double* product, int64_t n_rows, int64_t n_columns, const int64_t* columns, int64_t first);
  /// Copy the upper triangle of a matrix to its lower one.
  void (*mirror_upper)(const Square&);
  /// Fill the medians over images, pixel by pixel and without NaN; `scratch` holds MEDIANS_TOGETHER numbers for each image.
  void (*medians)(const float* const* images, int64_t n_images, int64_t n_pixels, float* result, float* scratch);
  /// Divide good pixels by the mean of their block [row of blocks, block]; NaN where they are not good.
  void (*divide_blocks)(const float* image, const uint8_t* good, const double* mean, int64_t n_rows, int64_t n_columns, int64_t block,
                        const int64_t* block_rows, float* result);
  /// Fill signals and numbers of pixels of rows of super-pixels, limits[row] to limits[row + 1] of the image, for their noise per pixel;
  /// return how many pixels are off by more than the limit, in squared standard deviations.
  int64_t (*average)(const ExposurePixels&, const int64_t* limits, int64_t n_rows, const double* noise, float limit, double* signals,
                     int64_t* kept, float* scratch);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::joint
