// Values in the order of others; see permil.compare.correlation.methods.
#pragma once
#include <cstring>

#include "_kernels/span.hpp"
#include "compare/_kernels/structs.hpp"

namespace permil::compare {
namespace {

/// Return whole numbers in the order of floating-point ones.
inline uint32_t ordered_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}

inline int64_t digit_of(uint64_t item, int digit) { return int64_t(item >> (32 + BITS_OF_DIGIT * digit)) & (N_OF_DIGIT - 1); }

/// Fill a row with ascending values in the order of finite numbers, equal ones by their index: a radix sort. `items` is memory for twice the
/// row, `starts` for `N_STARTS`.
inline void give_order(Span<const float> numbers, Span<const double> ascending, int64_t n, uint64_t* items, int64_t* starts,
                       Span<double> row) {
  const auto start = span_of(starts, N_STARTS);
  auto from = span_of(items, n), to = span_of(items + n, n);
  for (int64_t at = 0; at < N_STARTS; ++at) start[at] = 0;
  for (int64_t index = 0; index < n; ++index) {
    const uint64_t item = uint64_t(ordered_bits(numbers[index])) << 32 | uint64_t(index);
    from[index] = item;
    for (int digit = 0; digit < N_DIGITS; ++digit) ++start[digit * N_OF_DIGIT + digit_of(item, digit)];
  }
  for (int digit = 0; digit < N_DIGITS; ++digit) {
    int64_t total = 0;
    for (int64_t of = 0; of < N_OF_DIGIT; ++of) {
      const int64_t count = start[digit * N_OF_DIGIT + of];
      start[digit * N_OF_DIGIT + of] = total;
      total += count;
    }
    for (int64_t at = 0; at < n; ++at) {
      const uint64_t item = from[at];
      const int64_t place = start[digit * N_OF_DIGIT + digit_of(item, digit)]++;
      if (digit < N_DIGITS - 1) to[place] = item;
      else row[int64_t(item & 0xFFFFFFFFu)] = ascending[place];
    }
    const auto next = to;
    to = from;
    from = next;
  }
}

}  // namespace
}  // namespace permil::compare
