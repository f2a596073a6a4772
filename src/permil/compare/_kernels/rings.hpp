// Sums over annuli around an axis; see permil.compare.rings.search.
#pragma once
#include "_kernels/mathematics.hpp"
#include "compare/_kernels/structs.hpp"

namespace permil::compare {
namespace {

/// Add cells to sums and weights of annuli [tile, annulus]; a cell is shared by the two nearest ones.
inline void add_to_annuli(const Cells& cells, const Annuli& annuli, double* total, double* share) {
  const auto x = span_of(cells.x, cells.count), y = span_of(cells.y, cells.count), level = span_of(cells.level, cells.count);
  const auto tile = span_of(cells.tile, cells.count);
  for (int64_t cell = 0; cell < cells.count; ++cell) {
    const double u = x[cell] - annuli.x, v = y[cell] - annuli.y;
    const double place = std::sqrt(u * u + v * v) / annuli.width - double(annuli.first);
    const int64_t annulus = int64_t(place);
    const double part = place - double(annulus);
    const auto own_total = span_of(total + tile[cell] * annuli.count, annuli.count);
    const auto own_share = span_of(share + tile[cell] * annuli.count, annuli.count);
    own_total[annulus] += (1.0 - part) * level[cell];
    own_share[annulus] += 1.0 - part;
    own_total[annulus + 1] += part * level[cell];
    own_share[annulus + 1] += part;
  }
}

}  // namespace
}  // namespace permil::compare
