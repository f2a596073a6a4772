// Arguments and results of the kernels of this package. Arrays lie in memory row by row; [a, b] names their axes.
#pragma once
#include <cstdint>

namespace permil::simulate {

/// Layers of the ziggurat of permil.simulate.randoms: right edge, and density there.
struct Layers {
  static constexpr int COUNT = 256;
  double edges[COUNT + 1], densities[COUNT + 1];
};

/// Active pixels of the segments of a detector, [amplifier, y, x].
struct Segments {
  int64_t amplifiers, ny, nx;
};

/// How the amplifiers of a detector read out; see permil.simulate.electronics.Electronics.
struct Electronics {
  const double* crosstalk;  // [victim, source]
  const float* bias;        // [amplifier, raw row, raw column]
  const double* deferred;   // [pixel]
  int64_t n_deferred;
};

/// Values of one exposure: level of raw rows [amplifier, raw row] and read noise [amplifier], adu.
struct Readout {
  const float* drift;
  const double* noise;
};

/// Raw segments [amplifier, y, x], whose active columns begin behind the prescan.
struct Raw {
  int32_t* pixels;
  int64_t ny, nx, prescan;
};

/// A beam: its structure as a spline on a square grid of knots [x, y], and the constants of its radial shape; see
/// permil.simulate.projector.BeamTruth.
struct Beam {
  const double* knots;
  int64_t n_x, n_y;
  double spacing;
  double slope, turn, ring_radius, ring_break, stretch_x, stretch_y, scale;
};

/// Columns of a grid: their places, first knots and weights [knot, column], and memory for two rows and for a row of knots.
struct BeamColumns {
  int64_t count;
  const double* places;
  int64_t* first;
  double *weights, *exponent, *level, *line;
};

/// Spots; see permil.simulate.spots.bench.SpotLight.
struct Spots {
  int64_t count;
  const double *x, *y, *flux;
};

/// Charge and the fields that move it; see permil.simulate.spots.sensor.SensorMaps.
struct Sensor {
  int64_t ny, nx;
  const double *charge, *diffusion;      // [y, x]
  const double *shift_x, *shift_y;       // [y, x + 1], [y + 1, x]
  const double *centre_x, *centre_y;     // displacement at the centres of pixels, [y, x]
};

/// Memory for moments of the steps of charge, [y, x] each.
struct Spread {
  double *fourth, *xx, *yy, *xy;
};

}  // namespace permil::simulate
