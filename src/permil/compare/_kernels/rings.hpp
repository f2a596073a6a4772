// Sums over annuli around an axis; see permil.compare.rings.search.
#pragma once
#include "_kernels/mathematics.hpp"
#include "compare/_kernels/structs.hpp"

namespace permil::compare {
namespace {

/// Cells whose places are computed together, on vector units.
constexpr int64_t TOGETHER = 256;

/// Fill the place of cells among the annuli, in their widths.
inline void place_cells(const Cells& cells, const Annuli& annuli, int64_t first, int64_t count, Span<double> place) {
  const auto x = span_of(cells.x + first, count), y = span_of(cells.y + first, count);
  const double scale = 1.0 / annuli.width, start = double(annuli.first);
  LOOP (int64_t cell = 0; cell < count; ++cell) {
    const double u = x[cell] - annuli.x, v = y[cell] - annuli.y;
    place[cell] = std::sqrt(u * u + v * v) * scale - start;
  }
}

/// Add a cell to the sums of the two nearest annuli.
inline void add_cell(const Cells& cells, const Annuli& annuli, int64_t cell, double place, double* sums) {
  const int64_t annulus = int64_t(place);
  const double part = place - double(annulus), level = cells.level[cell];
  const auto own = span_of(sums + 2 * cells.tile[cell] * annuli.count, 2 * annuli.count);
  own[2 * annulus] += (1.0 - part) * level;
  own[2 * annulus + 1] += 1.0 - part;
  own[2 * annulus + 2] += part * level;
  own[2 * annulus + 3] += part;
}

/// Add cells to sums and weights of annuli [tile, annulus, (sum, weight)]; a cell is shared by the two nearest ones.
inline void add_to_annuli(const Cells& cells, const Annuli& annuli, double* sums) {
  // Cells of both halves go in turn: neighbours add to the same annulus, and would wait for each other.
  const int64_t half = cells.count / 2;
  double memory[2 * TOGETHER];
  const auto place = span_of(memory, TOGETHER), other_place = span_of(memory + TOGETHER, TOGETHER);
  for (int64_t first = 0; first < half; first += TOGETHER) {
    const int64_t count = smaller(TOGETHER, half - first);
    place_cells(cells, annuli, first, count, place);
    place_cells(cells, annuli, half + first, count, other_place);
    for (int64_t cell = 0; cell < count; ++cell) {
      add_cell(cells, annuli, first + cell, place[cell], sums);
      add_cell(cells, annuli, half + first + cell, other_place[cell], sums);
    }
  }
  for (int64_t cell = 2 * half; cell < cells.count; ++cell) {
    place_cells(cells, annuli, cell, 1, place);
    add_cell(cells, annuli, cell, place[0], sums);
  }
}

}  // namespace
}  // namespace permil::compare
