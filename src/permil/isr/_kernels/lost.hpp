// Columns of a raw row that hold no measurement: blocks of one count, as interrupted copies leave them. See permil.isr.overscan.
#pragma once
#include "_kernels/span.hpp"
#include "isr/_kernels/structs.hpp"

namespace permil::isr {
namespace {

constexpr int64_t FEWEST_EQUAL = 12;              // equal counts at either end of a row that are not noise
constexpr int64_t EQUAL_WITHIN = 48;              // equal counts within a row that are not noise
constexpr int64_t STEP_WITHIN = 112;              // columns between the places that are looked at within a row
constexpr int64_t STEP_ADU = 100;                 // step at the start of an overscan without noise
constexpr int64_t LARGEST_COUNT = (1 << 18) - 1;  // the largest count of a converter of 18 bits

/// Return whether anything may be lost of a raw row: counts repeat at either end, or somewhere between.
inline bool repeats_counts(Span<const int32_t> counts, int64_t width, int64_t first, int64_t last) {
  const int64_t end = width - 1;
  bool found = (counts[end] == counts[end - 1]) & (counts[end] == counts[end - 2]) & (counts[end] == counts[end - 3]);
  found |= (counts[0] == counts[1]) & (counts[0] == counts[2]) & (counts[0] == counts[3]);
  for (int64_t x = first; x < last - 3; x += STEP_WITHIN) found |= (counts[x] == counts[x + 1]) & (counts[x] == counts[x + 2]);
  return found;
}

/// Return whether a repeated count is a fault of the file: not saturated, or more than a converter gives.
inline bool is_fault(int64_t value, double saturation_adu) { return double(value) < saturation_adu || value > LARGEST_COUNT; }

inline bool repeats_from(Span<const int32_t> counts, int64_t x) {
  return counts[x + 1] == counts[x] && counts[x + 2] == counts[x] && counts[x + 3] == counts[x];
}

/// Return the column behind the last of equal counts, not more than `last`.
inline int64_t end_of_block(Span<const int32_t> counts, int64_t begin, int64_t last) {
  int64_t end = begin + 1;
  while (end < last && counts[end] == counts[begin]) ++end;
  return end;
}

/// Return the first column of equal counts that end at a column, not less than `first`.
inline int64_t begin_of_block(Span<const int32_t> counts, int64_t end, int64_t first) {
  int64_t begin = end;
  while (begin > first && counts[begin - 1] == counts[end]) --begin;
  return begin;
}

/// Return all columns from a block to the last pair of counts that equal it; a plateau at the top of its row is no fault.
inline Lost lost_from_block(Span<const int32_t> counts, int64_t first, int64_t last, int64_t begin, double saturation_adu) {
  const int64_t value = counts[begin];
  int64_t end = begin, largest = value;
  for (int64_t x = first; x < last; ++x) {
    largest = larger(largest, counts[x]);
    if (counts[x] == value && x > end && counts[x - 1] == value) end = x;
  }
  return {begin - first, end + 1 - first, value, largest > value && is_fault(value, saturation_adu)};
}

/// Return which active columns (`first` to `last - 1` of the raw row) hold no measurement; all of them where the level is lost.
inline Lost lost_columns(Span<const int32_t> counts, int64_t width, int64_t first, int64_t last, double saturation_adu) {
  int64_t value = counts[width - 1];
  if (repeats_from(counts, width - 4)) {
    const int64_t start = begin_of_block(counts, width - 1, 0);
    if (width - start >= FEWEST_EQUAL) {
      // Within the overscan, deferred charge of a row without noise ends in equal counts, too, but without a step.
      const bool has_step = start > last && larger(counts[start - 1] - value, value - counts[start - 1]) > STEP_ADU;
      if (start < last || has_step) return {0, last - first, value, is_fault(value, saturation_adu)};
      return {0, 0, 0, false};
    }
  }
  if (repeats_from(counts, 0)) {
    const int64_t end = end_of_block(counts, 0, width);
    value = counts[0];
    if (end >= FEWEST_EQUAL && end > first) return {0, smaller(end, last) - first, value, is_fault(value, saturation_adu)};
  }
  for (int64_t x = first; x < last - 3; x += STEP_WITHIN) {
    if (!repeats_from(counts, x)) continue;
    const int64_t begin = begin_of_block(counts, x, first);
    if (end_of_block(counts, x, last) - begin >= EQUAL_WITHIN && double(counts[x]) < saturation_adu)
      return lost_from_block(counts, first, last, begin, saturation_adu);
  }
  return {0, 0, 0, false};
}

}  // namespace
}  // namespace permil::isr
