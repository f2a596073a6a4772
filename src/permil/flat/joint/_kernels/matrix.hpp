// Sums of tiles on their way to the matrix of the unknowns; its upper triangle is filled.
#pragma once
#include "flat/joint/_kernels/spline.hpp"

namespace permil::joint {
namespace {

inline auto row_of(const Square& matrix, int64_t row) { return span_of(matrix.first + row * matrix.stride, matrix.size); }

/// Add a few numbers, four at a time.
inline void add_to(Span<double> target, Span<const double> source, int64_t n) {
  int64_t place = 0;
  for (; place + 4 <= n; place += 4)
    for (int64_t k = 0; k < 4; ++k) target[place + k] += source[place + k];
  for (; place < n; ++place) target[place] += source[place];
}

/// Add the products of B-spline (i, j) in the window of a pattern with those that follow it to its row of the matrix; `inside` is the
/// place of the first B-spline of the pattern in the block.
inline void add_splines(Span<double> row, Span<const double> values, Windows windows, const int64_t* counts, int64_t n_patterns,
                        int64_t pattern, int64_t inside, int64_t i, int64_t j) {
  for (int64_t other = pattern; other < n_patterns; ++other) {
    const int64_t *window = windows + 4 * other, *own = counts + 3 * other;
    const int64_t n = window[3];
    for (int64_t k = other == pattern ? i : 0; k < window[1]; ++k) {
      const int64_t start = own[2] + (window[0] + k) * own[1] + window[2], skipped = other == pattern && k == i ? j : 0;
      add_to(part_of(row, start + skipped, n - skipped), part_of(values, inside + k * n + skipped, n - skipped), n - skipped);
    }
    inside += window[1] * n;
  }
}

/// Return the product of two vectors with a symmetric matrix between them, given by its upper triangle, rows `side` apart.
inline double product_of(Span<const double> one, Span<const double> two, Span<const double> corner, int64_t side, int64_t n) {
  double total = 0.0;
  for (int64_t k = 0; k < n; ++k)
    for (int64_t m = 0; m < n; ++m) total += one[k] * two[m] * corner[smaller(k, m) * side + larger(k, m)];
  return total;
}

void add_blocks(const Square& matrix, const double* blocks, int64_t n_exposures, int64_t side, Windows windows,
                const int64_t* counts, int64_t n_patterns, const Further& further, int64_t low, int64_t high) {
  const int64_t n_parts = further.n_parts;
  for (int64_t exposure = 0; exposure < n_exposures; ++exposure) {
    const Windows own = windows + 4 * n_patterns * exposure;
    if (own[1] == 0) continue;
    const auto block = span_of(blocks + exposure * side * side, side * side);
    const auto others = span_of(further.columns + exposure * further.count, further.count);
    const auto parts = span_of(further.parts + exposure * further.count * n_parts, further.count * n_parts);
    int64_t size = 0, inside = 0;
    for (int64_t pattern = 0; pattern < n_patterns; ++pattern) size += own[4 * pattern + 1] * own[4 * pattern + 3];
    for (int64_t pattern = 0; pattern < n_patterns; ++pattern) {
      const int64_t *window = own + 4 * pattern, *of_pattern = counts + 3 * pattern;
      for (int64_t i = 0; i < window[1]; ++i) {
        const int64_t first = of_pattern[2] + (window[0] + i) * of_pattern[1] + window[2];
        for (int64_t j = larger(low - first, 0); j < smaller(window[3], high - first); ++j) {
          const auto values = part_of(block, (inside + i * window[3] + j) * side, side);
          const auto row = row_of(matrix, first + j);
          add_splines(row, values, own, counts, n_patterns, pattern, inside, i, j);
          for (int64_t number = 0; number < further.count; ++number) {
            const auto of = part_of(parts, number * n_parts, n_parts);
            double total = of[0] * values[size] + of[1] * values[size + 1] + of[2] * values[size + 2];
            for (int64_t k = 3; k < n_parts; ++k) total += of[k] * values[size + k];
            row[others[number]] += total;
          }
        }
      }
      inside += window[1] * window[3];
    }
    const auto corner = part_of(block, size * side + size, (n_parts - 1) * side + n_parts);
    for (int64_t one = 0; one < further.count; ++one) {
      if (others[one] < low || others[one] >= high) continue;
      const auto row = row_of(matrix, others[one]);
      for (int64_t two = one; two < further.count; ++two)
        row[others[two]] += product_of(part_of(parts, one * n_parts, n_parts), part_of(parts, two * n_parts, n_parts), corner, side, n_parts);
    }
  }
}

void subtract_rows(const Square& matrix, const double* product, int64_t n_rows, int64_t n_columns, const int64_t* columns, int64_t first) {
  const auto own = span_of(columns + first, n_columns);
  for (int64_t number = 0; number < n_rows; ++number) {
    const auto row = row_of(matrix, own[number]);
    const auto values = span_of(product + number * n_columns, n_columns);
    // Runs of unknowns one after the other are subtracted at once.
    for (int64_t start = number; start < n_columns;) {
      int64_t end = start + 1;
      while (end < n_columns && own[end] == own[end - 1] + 1) ++end;
      const auto target = part_of(row, own[start], end - start);
      const auto source = part_of(values, start, end - start);
      LOOP (int64_t place = 0; place < end - start; ++place) target[place] -= source[place];
      start = end;
    }
  }
}

void mirror_upper(const Square& matrix) {
  // In squares, so that what is read and what is written stays in the nearest cache.
  constexpr int64_t SIDE = 8;
  const int64_t n = matrix.size;
  const auto all = span_of(matrix.first, (n - 1) * matrix.stride + n);
  for (int64_t top = 0; top < n; top += SIDE)
    for (int64_t left = 0; left <= top; left += SIDE)
      for (int64_t column = left; column < smaller(left + SIDE, n); ++column)
        for (int64_t row = larger(top, column + 1); row < smaller(top + SIDE, n); ++row)
          all[row * matrix.stride + column] = all[column * matrix.stride + row];
}

}  // namespace
}  // namespace permil::joint
