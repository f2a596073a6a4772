// Entry points of the kernels of this package, once for each level of instructions, and their arguments. Arrays lie in memory row by
// row; [y, x] names their axes.
#pragma once
#include <cstdint>

namespace permil::flat {

/// Pixels from node to node of a lattice of light; see permil.flat.combine.
constexpr int64_t CELL = 8;

/// Rows and columns of an image.
struct Shape {
  int64_t rows, columns;
};

/// Mask planes, [y, x], of 16 or of 32 bits; one of the two is null.
struct Masks {
  const int16_t* narrow;
  const int32_t* wide;
};

/// Numbers of pixels that may be the same along an axis, where the step is 0.
struct Steps {
  const float* first;
  int64_t row, column;
};

/// A stack with its light; see permil.flat.divide.LitImage.
struct Lit {
  Shape shape;
  const float *signal, *variance, *beam;
  Masks mask;
};

/// What the weights of a pointing depend on besides its pixels; see permil.flat.divide.PointingWeights.arguments.
struct Light {
  float photodiode, photon, of_scale;
};

/// Sums over pointings; see permil.flat.combine.PointingCombination.
struct Combination {
  float *first, *sums;  // [y, x], [y, 6, x]
  int16_t *count, *all_planes, *any_planes;
};

/// Rows of an exposure from `first_row` of the detector on, and what is expected there; see permil.flat.combine.
struct Expected {
  Shape shape;
  int64_t first_row;
  const float *image, *beam, *reference;
  float scale, limit;
};

/// Amplifiers: first row and the one behind the last, the same of columns, [amplifier, 4], and their noise.
struct Amplifiers {
  int64_t count;
  const int64_t* bounds;
  const float* noise;
};

/// Real numbers of an image, or flags (1 or 0), [y, x], rows `step` apart.
template <class Number>
struct Rows {
  const Number* first;
  int64_t step;
};

/// Rows of blocks to which the rows of an image belong, rising, and the side of a block.
struct Blocks {
  int64_t size, columns;
  const int64_t* rows;
};

/// Memory for a few rows of pixels, or of nodes: `ROWS_OF_FLOATS` of numbers, one of planes.
struct Scratch {
  float* rows;
  int16_t* planes;
};
constexpr int64_t ROWS_OF_FLOATS = 5;

struct Kernels {
  /// Fill response, its variance and its planes.
  void (*divide)(const Lit&, double photodiode, float* response, float* variance, int16_t* planes, const Scratch&);
  /// Fill the weights of the pixels of a pointing.
  void (*fill_weights)(const Lit&, const Steps& error, const Light&, float* weights, const Scratch&);
  /// Add a pointing to all sums.
  void (*add_pointing)(const Lit&, const Steps& error, const Light&, const Combination&, const Scratch&);
  /// Fill the variances of an exposure and flag outliers in its mask; return how many had not been flagged before.
  int64_t (*flag_outliers)(const Expected&, const Amplifiers&, int16_t* mask, float* variance, const Scratch&);
  /// Fill rows first, first + step, ... of a detector with the light between nodes [row, n_columns].
  void (*interpolate)(const float* nodes, int64_t n_columns, int64_t first, int64_t step, const Shape&, float* image, const Scratch&);
  /// Add an image, where it is good, to the sums of blocks; `good` is null where all pixels are. `scratch` holds a row.
  void (*add_floats)(const Rows<float>&, const Rows<uint8_t>& good, const Shape&, const Blocks&, double* sums, double* scratch);
  void (*add_doubles)(const Rows<double>&, const Rows<uint8_t>& good, const Shape&, const Blocks&, double* sums, double* scratch);
  void (*add_flags)(const Rows<uint8_t>&, const Rows<uint8_t>& good, const Shape&, const Blocks&, double* sums, double* scratch);
  /// Add good pixels to the sums [3, cell] of response, variance and number of their cells; return whether there are all these cells.
  bool (*add_to_cells)(const float* response, const float* variance, const bool* good, const int64_t* cells, int64_t n_pixels,
                       double* sums, int64_t n_cells);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::flat
