// Level and noise of the serial overscan. Counts are whole numbers: their sums are exact in any order.
#pragma once
#include <cmath>

#include "_kernels/span.hpp"
#include "isr/_kernels/structs.hpp"

namespace permil::isr {
namespace {

constexpr int64_t LOWEST = -(int64_t(1) << 31), HIGHEST = (int64_t(1) << 31) - 1;

/// Return how many counts do not exceed a limit.
inline int64_t count_up_to(Span<const int32_t> counts, int64_t n, int64_t limit) {
  const int32_t bound = int32_t(smaller(larger(limit, LOWEST), HIGHEST));
  int32_t number = 0;
  for (int64_t x = 0; x < n; ++x) number += counts[x] <= bound;
  return number;
}

/// Return the count of a rank (from 1): steps that double lead from the guess to a range that holds it, which is then halved.
inline int64_t count_of_rank(Span<const int32_t> counts, int64_t n, int64_t rank, int64_t guess) {
  int64_t low = guess, high = guess, step = 1;
  if (count_up_to(counts, n, guess) >= rank) {
    low -= step;
    while (low >= LOWEST && count_up_to(counts, n, low) >= rank) {
      step *= 2;
      high = low;
      low -= step;
    }
    low = larger(low, LOWEST - 1);
  } else {
    high += step;
    while (count_up_to(counts, n, high) < rank) {
      step *= 2;
      low = high;
      high += step;
    }
  }
  // More than low and not more than high.
  while (high - low > 1) {
    const int64_t middle = (low + high) >> 1;
    (count_up_to(counts, n, middle) >= rank ? high : low) = middle;
  }
  return high;
}

/// Return the median of counts; the nearer the guess, the sooner.
inline double median_of_counts(Span<const int32_t> counts, int64_t n, double guess) {
  const int64_t half = n / 2;
  if (n % 2) return double(count_of_rank(counts, n, half + 1, int64_t(guess)));
  const int64_t lower = count_of_rank(counts, n, half, int64_t(guess));
  int64_t upper = lower;
  if (count_up_to(counts, n, lower) == half) {
    upper = HIGHEST;
    for (int64_t x = 0; x < n; ++x)
      if (counts[x] > lower) upper = smaller(upper, counts[x]);
  }
  return (double(lower) + double(upper)) / 2;
}

/// Return the median absolute deviation of counts from a centre that is a multiple of 1/2; `doubled` holds n numbers.
inline double median_deviation(Span<const int32_t> counts, int64_t n, double centre, Span<int32_t> doubled) {
  const int64_t twice = int64_t(2 * centre);
  for (int64_t x = 0; x < n; ++x) {
    const int64_t deviation = 2 * int64_t(counts[x]) - twice;
    doubled[x] = int32_t(smaller(deviation < 0 ? -deviation : deviation, HIGHEST));
  }
  return median_of_counts(doubled, n, 0.0) / 2;
}

/// Number of counts, and sums of their deviations from a centre and of the squares.
struct ClippedSums {
  int64_t kept;
  double total, squares;
};

/// Return the sums over counts within a limit of a centre, in eight lanes.
inline ClippedSums clipped_sums(Span<const int32_t> counts, int64_t n, double centre, double limit) {
  constexpr int LANES = 8;
  double kept[LANES] = {}, total[LANES] = {}, squares[LANES] = {};
  const auto add = [&](int64_t x, int lane) {
    const double deviation = counts[x] - centre, inside = std::fabs(deviation) <= limit ? 1.0 : 0.0;
    kept[lane] += inside;
    total[lane] += inside * deviation;
    squares[lane] += inside * (deviation * deviation);
  };
  int64_t x = 0;
  for (; x + LANES <= n; x += LANES)
    for (int lane = 0; lane < LANES; ++lane) add(x + lane, lane);
  for (; x < n; ++x) add(x, 0);
  ClippedSums sums{0, 0.0, 0.0};
  double all = 0.0;
  for (int lane = 0; lane < LANES; ++lane) {
    all += kept[lane];
    sums.total += total[lane];
    sums.squares += squares[lane];
  }
  sums.kept = int64_t(all);
  return sums;
}

/// Measure the overscan of a row; counts that deviate from the median by more than `clip` are outliers.
inline Overscan overscan_of_row(Span<const int32_t> counts, int64_t n, double guess, double clip, bool row_mean) {
  const double median = median_of_counts(counts, n, guess);
  const ClippedSums sums = clipped_sums(counts, n, median, clip);
  if (sums.kept == 0) return {median, 0.0, 0};
  const double shift = sums.total / double(sums.kept);
  return {row_mean ? median + shift : median, sums.squares - sums.total * sums.total / double(sums.kept), sums.kept - 1};
}

}  // namespace
}  // namespace permil::isr
