// Rows of pixels: their masks, and numbers that may be the same in all of them.
#pragma once
#include "_kernels/span.hpp"
#include "flat/_kernels/kernels.hpp"
#include "isr/_kernels/planes.hpp"

namespace permil::flat {
namespace {

using isr::NO_DATA;
using isr::REJECTED;
using isr::UNUSABLE;

constexpr float INFINITE = __builtin_inff(), NONE = __builtin_nanf("");

/// Return the mask of a row, in `scratch` where it has 32 bits.
inline const int16_t* mask_of_row(const Masks& mask, int64_t first, int64_t n, int16_t* scratch) {
  if (mask.narrow) return mask.narrow + first;
  const auto narrow = span_of(scratch, n);
  const auto wide = span_of(mask.wide + first, n);
  LOOP (int64_t x = 0; x < n; ++x) narrow[x] = int16_t(wide[x]);
  return scratch;
}

/// Return the numbers of a row, in `scratch` where they do not lie side by side.
inline const float* row_of_steps(const Steps& steps, int64_t row, int64_t n, float* scratch) {
  const float* const first = steps.first + row * steps.row;
  if (steps.column == 1) return first;
  const auto copied = span_of(scratch, n);
  for (int64_t x = 0; x < n; ++x) copied[x] = first[x * steps.column];
  return scratch;
}

}  // namespace
}  // namespace permil::flat
