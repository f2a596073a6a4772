// Normal equations of fluxes; see permil.spots.flux_model.
#pragma once
#include "_kernels/mathematics.hpp"
#include "spots/_kernels/structs.hpp"

namespace permil::spots {
namespace {

/// Add one measurement; `added` is memory for its coefficients.
inline void add_measurement(const Measurements& all, int64_t n, Span<double> added, const Equations& sums) {
  const double weight = all.weight[n], factor = all.factor[n], pull = weight * all.residual[n];
  const int64_t spot = all.spot[n], exposure = all.exposure[n], others = sums.others, width = all.width;
  const auto index = span_of(all.index + n * width, width);
  const auto values = span_of(all.values + n * width, width);
  const auto coupling = span_of(sums.coupling + spot * others, others), other_side = span_of(sums.other_side, others);
  const auto of_exposure = span_of(sums.other_weight + exposure * others, others);
  sums.spot_weight[spot] += weight;
  sums.spot_side[spot] += pull;
  coupling[exposure] += weight;
  of_exposure[exposure] += weight;
  other_side[exposure] += pull;
  for (int64_t a = 0; a < width; ++a) {
    const int64_t first = sums.exposures + index[a];
    const double slope = values[a] / factor, weighted = weight * slope;
    const auto of_first = span_of(sums.other_weight + first * others, others);
    coupling[first] += weighted;
    of_exposure[first] += weighted;
    of_first[exposure] += weighted;
    other_side[first] += pull * slope;
    LOOP (int64_t b = 0; b < width; ++b) added[b] = weighted * values[b] / factor;
    for (int64_t b = 0; b < width; ++b) of_first[sums.exposures + index[b]] += added[b];
  }
}

}  // namespace
}  // namespace permil::spots
