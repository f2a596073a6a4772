// Light between the nodes of a lattice: Lagrange's cubic along both axes.
#pragma once
#include "flat/_kernels/rows.hpp"

namespace permil::flat {
namespace {

/// The light along a row between nodes k + 1 and k + 2: a polynomial for each k.
struct Cubics {
  float *line, *zeroth, *linear, *square, *cube;
};

/// Fill the light at the nodes of a row and the polynomials between them.
inline void fill_cubics(const float* nodes, int64_t n, int64_t y, const Cubics& cubics) {
  constexpr float third = 1.0f / 3.0f, half = 0.5f, sixth = 1.0f / 6.0f;
  const int64_t cell = y / CELL;
  const double t = double(y) / double(CELL) - double(cell);
  const float w0 = float(-t * (t - 1) * (t - 2) / 6), w1 = float((t + 1) * (t - 1) * (t - 2) / 2);
  const float w2 = float(-(t + 1) * t * (t - 2) / 2), w3 = float((t + 1) * t * (t - 1) / 6);
  const auto n0 = span_of(nodes + cell * n, n), n1 = span_of(nodes + (cell + 1) * n, n), n2 = span_of(nodes + (cell + 2) * n, n);
  const auto n3 = span_of(nodes + (cell + 3) * n, n);
  const auto line = span_of(cubics.line, n), zeroth = span_of(cubics.zeroth, n), linear = span_of(cubics.linear, n);
  const auto square = span_of(cubics.square, n), cube = span_of(cubics.cube, n);
  LOOP (int64_t k = 0; k < n; ++k) line[k] = w0 * n0[k] + w1 * n1[k] + w2 * n2[k] + w3 * n3[k];
  LOOP (int64_t k = 0; k < n - 3; ++k) {
    const float l0 = line[k], l1 = line[k + 1], l2 = line[k + 2], l3 = line[k + 3];
    zeroth[k] = l1;
    linear[k] = l2 - third * l0 - half * l1 - sixth * l3;
    square[k] = half * (l0 + l2) - l1;
    cube[k] = half * (l1 - l2) + sixth * (l3 - l0);
  }
}

void interpolate(const float* nodes, int64_t n_nodes, int64_t first, int64_t step, const Shape& shape, float* image, const Scratch& scratch) {
  const int64_t n = shape.columns, whole = n / CELL;
  const Cubics cubics{scratch.rows, scratch.rows + n_nodes, scratch.rows + 2 * n_nodes, scratch.rows + 3 * n_nodes, scratch.rows + 4 * n_nodes};
  const auto zeroth = span_of(cubics.zeroth, n_nodes), linear = span_of(cubics.linear, n_nodes);
  const auto square = span_of(cubics.square, n_nodes), cube = span_of(cubics.cube, n_nodes);
  for (int64_t row = 0; row < shape.rows; ++row) {
    fill_cubics(nodes, n_nodes, first + row * step, cubics);
    const auto pixels = span_of(image + row * n, n);
    for (int64_t cell = 0; cell < whole; ++cell) {
      const float c0 = zeroth[cell], c1 = linear[cell], c2 = square[cell], c3 = cube[cell];
      for (int64_t k = 0; k < CELL; ++k) {
        const float s = float(k) / float(CELL);
        pixels[cell * CELL + k] = c0 + s * (c1 + s * (c2 + s * c3));
      }
    }
    for (int64_t x = whole * CELL; x < n; ++x) {
      const float s = float(x - whole * CELL) / float(CELL);
      pixels[x] = zeroth[whole] + s * (linear[whole] + s * (square[whole] + s * cube[whole]));
    }
  }
}

}  // namespace
}  // namespace permil::flat
