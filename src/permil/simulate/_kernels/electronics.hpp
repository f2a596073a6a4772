// From light to counts; see permil.simulate.electronics.
#pragma once
#include "_kernels/mathematics.hpp"
#include "simulate/_kernels/randoms.hpp"

namespace permil::simulate {
namespace {

constexpr float ADC_LARGEST = 262143.0f;

inline void fill_normals(Normals& normals, Span<float> row, int64_t n) {
  for (int64_t x = 0; x < n; ++x) row[x] = float(normals.next());
}

/// Draw the charge of a row: mean and photon noise.
inline void draw_row(Span<const float> light, float level, Span<const float> dark, Span<const float> normals, Span<float> charge, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) {
    const float mean = level * light[x] + dark[x];
    charge[x] = mean + __builtin_sqrtf(at_least(mean, 0.0f)) * normals[x];
  }
}

/// Turn charge into counts above bias.
inline void convert_row(Span<float> charge, float well, float per_adu, float four_a, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) {
    const float linear = at_most(charge[x], well) * per_adu;
    // Solves linear = measured (1 + a measured); beyond the largest linear of a negative a there is no solution.
    const float square = at_least(1.0f + four_a * linear, 0.0f);
    charge[x] = 2.0f * linear / (1.0f + __builtin_sqrtf(square));
  }
}

/// Fill a raw row above its bias: counts with crosstalk, and charge that is left behind in the overscans.
inline void compose_row(Span<const float> counts, const Segments& own, const Electronics& electronics, int64_t victim, int64_t row,
                        const Raw& raw, Span<float> line) {
  const int64_t nx = own.nx, plane = own.ny * nx;
  const auto active = part_of(line, raw.prescan, nx);
  for (int64_t x = 0; x < raw.nx; ++x) line[x] = 0.0f;
  if (row < own.ny) {
    const auto measured = part_of(counts, victim * plane + row * nx, nx);
    LOOP (int64_t x = 0; x < nx; ++x) active[x] = measured[x];
    for (int64_t source = 0; source < own.amplifiers; ++source) {
      if (electronics.crosstalk[victim * own.amplifiers + source] == 0.0) continue;
      const float coefficient = float(electronics.crosstalk[victim * own.amplifiers + source]);
      const auto other = part_of(counts, source * plane + row * nx, nx);
      LOOP (int64_t x = 0; x < nx; ++x) active[x] += coefficient * other[x];
    }
    const int64_t behind = raw.prescan + nx, n_tail = smaller(electronics.n_deferred, raw.nx - behind);
    for (int64_t pixel = 0; pixel < n_tail; ++pixel) line[behind + pixel] = float(electronics.deferred[pixel] * double(measured[nx - 1]));
  } else if (row - own.ny < electronics.n_deferred) {
    const auto last = part_of(counts, victim * plane + (own.ny - 1) * nx, nx);
    const double part = electronics.deferred[row - own.ny];
    LOOP (int64_t x = 0; x < nx; ++x) active[x] = float(part * double(last[x]));
  }
}

/// Turn a raw row above its bias into whole numbers.
inline void digitise_row(Span<const float> line, Span<const float> bias, float level, float sigma, Span<const float> normals,
                         Span<int32_t> raw, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) {
    const float adu = line[x] + bias[x] + level + sigma * normals[x];
    raw[x] = int32_t(at_most(at_least(adu, 0.0f), ADC_LARGEST));
  }
}

}  // namespace
}  // namespace permil::simulate
