// Entry points of the kernels of this package, once for each level of instructions.
#pragma once
#include "simulate/_kernels/structs.hpp"

namespace permil::simulate {

struct Kernels {
  /// Fill n standard normals and advance the state of the generator.
  void (*fill_normal)(const Layers&, uint64_t* state, double* output, int64_t n);
  /// Draw the charge of segments; `memory` holds a row.
  void (*draw_charge)(const Layers&, const Segments&, const float* light, float level, const float* dark, uint64_t* state, float* memory,
                      float* charge);
  /// Add photon noise to a mean; `memory` holds a row.
  void (*add_photon_noise)(const Layers&, int64_t ny, int64_t nx, const double* mean, uint64_t* state, float* memory, float* charge);
  /// Turn charge into counts above bias, in place.
  void (*convert_charge)(const Segments&, const double* full_well, const double* gain, const double* curvature, float* charge);
  /// Turn counts above bias into raw segments; `memory` holds two raw rows.
  void (*read_out)(const Layers&, const Segments&, const float* counts, const Electronics&, const Readout&, uint64_t* state, float* memory,
                   const Raw&);
  /// Compress rows, one tile each; fill length and offset of each and return how many bytes.
  int64_t (*compress_rows)(const int32_t* pixels, int64_t ny, int64_t nx, uint8_t* heap, int64_t n_heap, int32_t* descriptors);
  /// Evaluate a beam at n places.
  void (*beam_at_points)(const Beam&, const double* x, const double* y, int64_t n, double* levels);
  /// Evaluate a beam on a grid of rows and columns.
  void (*beam_on_grid)(const Beam&, const double* rows, int64_t n_rows, const BeamColumns&, float* levels);
  /// Add the cores of spots to light.
  void (*add_cores)(const Spots&, const double* xx, const double* yy, const double* xy, int64_t ny, int64_t nx, double* light);
  /// Add round Gaussians to light; `memory` holds a column and a row.
  void (*add_round)(const Spots&, double sigma, int64_t ny, int64_t nx, double* memory, double* light);
  /// Carry charge across the borders of pixels; `memory` holds the borders of a row.
  void (*move_charge)(const Sensor&, const Spread&, double* memory, double* moved);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::simulate
