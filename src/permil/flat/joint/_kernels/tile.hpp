// Sums of the rows of a tile of super-pixels.
//
// Neighbouring super-pixels of a row mostly see the same B-splines: the products of their derivatives are summed by themselves, in
// registers, before they are added to the block of the exposure.
#pragma once
#include "flat/joint/_kernels/spline.hpp"

namespace permil::joint {
namespace {

// Numbers in a vector register.
#if defined(__AVX512F__)
constexpr int64_t LANES = 8;
#elif defined(__AVX__)
constexpr int64_t LANES = 4;
#else
constexpr int64_t LANES = 2;
#endif
typedef double Lanes __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

void mark_windows(const double* bounds, const Exposures& exposures, const Patterns& patterns, const Further& further, const bool* lit,
                  int64_t* windows, bool* marked) {
  const auto all = span_of(marked, patterns.n_unknowns);
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    if (!lit[exposure]) continue;
    for (int64_t number = 0; number < further.count; ++number) all[further.columns[exposure * further.count + number]] = true;
    for (int64_t pattern = 0; pattern < patterns.count; ++pattern) {
      const int64_t *counts = patterns.counts + 3 * pattern;
      const Window window = window_of(bounds, seen_in(patterns, exposures, pattern, exposure));
      int64_t* const own = windows + 4 * (exposure * patterns.count + pattern);
      own[0] = window.first_x;
      own[1] = window.number_x;
      own[2] = window.first_y;
      own[3] = window.number_y;
      for (int64_t i = window.first_x; i < window.first_x + window.number_x; ++i)
        for (int64_t j = window.first_y; j < window.first_y + window.number_y; ++j) all[counts[2] + i * counts[1] + j] = true;
    }
  }
}

/// Rows that see the same B-splines, and the sums of their products.
struct Run {
  double *derivatives, *scaled;  // [row, width], without and with weight
  double* products;              // [width, width]
  int64_t width, n_splines, n_parts, n_rows;
};

/// Sum the products of all derivatives of a run on and above the diagonal.
inline void sum_products(const Run& run) {
  const int64_t width = run.width, used = run.n_splines + run.n_parts;
  const auto derivatives = span_of<const double>(run.derivatives, run.n_rows * width);
  const auto scaled = span_of<const double>(run.scaled, run.n_rows * width);
  const auto products = span_of(run.products, width * width);
  for (int64_t row = 0; row < used; row += 4) {
    for (int64_t column = row / 8 * 8; column < width; column += 8) {
      Lanes totals[4][8 / LANES] = {};
      for (int64_t number = 0; number < run.n_rows; ++number) {
        const auto weighted = part_of(scaled, number * width + row, 4);
        const auto own = part_of(derivatives, number * width + column, 8);
        for (int64_t k = 0; k < 4; ++k)
          for (int64_t part = 0; part < 8 / LANES; ++part)
            totals[k][part] += weighted[k] * *reinterpret_cast<const Lanes*>(&own[part * LANES]);
      }
      for (int64_t k = 0; k < 4; ++k) {
        const auto out = part_of(products, (row + k) * width + column, 8);
        for (int64_t part = 0; part < 8 / LANES; ++part) *reinterpret_cast<Lanes*>(&out[part * LANES]) = totals[k][part];
      }
    }
  }
}

/// Add the products of a run to the upper triangle of the block of its exposure; `inside` is the place of the first of the B-splines of
/// each pattern in the block, `size` the number of all its B-splines.
inline void add_products(const Run& run, Windows windows, int64_t n_patterns, const int64_t* inside, int64_t size, Span<double> block,
                         int64_t side) {
  const auto products = span_of<const double>(run.products, run.width * run.width);
  for (int64_t one = 0; one < n_patterns; ++one) {
    for (int64_t spline = 0; spline < 16; ++spline) {
      const int64_t i = spline / 4, j = spline % 4;
      const auto row = part_of(block, (inside[one] + i * windows[4 * one + 3] + j) * side, side);
      const auto own = part_of(products, (16 * one + spline) * run.width, run.width);
      for (int64_t two = one; two < n_patterns; ++two) {
        for (int64_t k = two == one ? i : 0; k < 4; ++k) {
          const auto target = part_of(row, inside[two] + k * windows[4 * two + 3], 4);
          const auto source = part_of(own, 16 * two + 4 * k, 4);
          for (int64_t m = 0; m < 4; ++m) target[m] += source[m];
        }
      }
      for (int64_t part = 0; part < run.n_parts; ++part) row[size + part] += own[run.n_splines + part];
    }
  }
  for (int64_t one = 0; one < run.n_parts; ++one)
    for (int64_t two = one; two < run.n_parts; ++two)
      block[(size + one) * side + size + two] += products[(run.n_splines + one) * run.width + run.n_splines + two];
}

/// Append the derivatives of one logarithm to a run.
inline void append_row(const Derivatives& rows, int64_t n_patterns, int64_t pixel, double weight, Run& run) {
  const auto own = span_of(run.derivatives + run.n_rows * run.width, run.width);
  const auto scaled = span_of(run.scaled + run.n_rows * run.width, run.width);
  for (int64_t pattern = 0; pattern < n_patterns; ++pattern) {
    for (int64_t i = 0; i < 4; ++i) {
      const double along_x = rows.values(pattern, i)[pixel];
      for (int64_t j = 0; j < 4; ++j) own[16 * pattern + 4 * i + j] = along_x * rows.values(pattern, 4 + j)[pixel];
    }
  }
  own[run.n_splines] = 1.0;
  own[run.n_splines + 1] = span_of(rows.slope_x, rows.n)[pixel];
  own[run.n_splines + 2] = span_of(rows.slope_y, rows.n)[pixel];
  for (int64_t part = 3; part < run.n_parts; ++part) own[run.n_splines + part] = span_of(rows.smooth, 5 * rows.n)[(part - 3) * rows.n + pixel];
  LOOP (int64_t place = 0; place < run.width; ++place) scaled[place] = weight * own[place];
  ++run.n_rows;
}

/// Add w x of one logarithm to the sums of its super-pixel.
inline void add_sums(const Derivatives& rows, const Patterns& patterns, const Further& further, int64_t exposure, int64_t pixel,
                     double weight, Span<const int64_t> positions, Span<double> sums) {
  for (int64_t pattern = 0; pattern < patterns.count; ++pattern) {
    const int64_t* counts = patterns.counts + 3 * pattern;
    const int64_t first = counts[2] + rows.first(pattern, 0)[pixel] * counts[1] + rows.first(pattern, 1)[pixel];
    double along[4];
    for (int64_t j = 0; j < 4; ++j) along[j] = rows.values(pattern, 4 + j)[pixel];
    for (int64_t i = 0; i < 4; ++i) {
      const double part = weight * rows.values(pattern, i)[pixel];
      const auto own = part_of(sums, positions[first + i * counts[1]], 4);
      for (int64_t j = 0; j < 4; ++j) own[j] += part * along[j];
    }
  }
  const double slope_x = span_of(rows.slope_x, rows.n)[pixel], slope_y = span_of(rows.slope_y, rows.n)[pixel];
  for (int64_t number = 0; number < further.count; ++number) {
    const int64_t entry = exposure * further.count + number;
    const auto parts = span_of(further.parts + entry * further.n_parts, further.n_parts);
    double derivative = parts[0] + parts[1] * slope_x + parts[2] * slope_y;
    for (int64_t k = 3; k < further.n_parts; ++k) derivative += parts[k] * span_of(rows.smooth, 5 * rows.n)[(k - 3) * rows.n + pixel];
    sums[positions[further.columns[entry]]] += weight * derivative;
  }
}

/// Add the products of the rows of an exposure to its block.
inline void add_block(const Derivatives& rows, Span<const double> weights, Windows windows, int64_t n_patterns, Run& run,
                      Span<double> block, int64_t side) {
  int64_t size = 0;
  for (int64_t pattern = 0; pattern < n_patterns; ++pattern) size += windows[4 * pattern + 1] * windows[4 * pattern + 3];
  int64_t inside[MOST_PATTERNS], before = -1;
  run.n_rows = 0;
  for (int64_t pixel = 0; pixel < rows.n; ++pixel) {
    if (!(weights[pixel] > 0.0)) continue;
    bool is_alike = run.n_rows > 0 && run.n_rows < MOST_TOGETHER;
    for (int64_t pattern = 0; is_alike && pattern < n_patterns; ++pattern)
      is_alike = rows.first(pattern, 0)[pixel] == rows.first(pattern, 0)[before] && rows.first(pattern, 1)[pixel] == rows.first(pattern, 1)[before];
    if (!is_alike) {
      if (run.n_rows > 0) {
        sum_products(run);
        add_products(run, windows, n_patterns, inside, size, block, side);
      }
      run.n_rows = 0;
      for (int64_t pattern = 0, first = 0; pattern < n_patterns; ++pattern) {
        const int64_t* window = windows + 4 * pattern;
        inside[pattern] = first + (rows.first(pattern, 0)[pixel] - window[0]) * window[3] + rows.first(pattern, 1)[pixel] - window[2];
        first += window[1] * window[3];
      }
    }
    append_row(rows, n_patterns, pixel, weights[pixel], run);
    before = pixel;
  }
  if (run.n_rows == 0) return;
  sum_products(run);
  add_products(run, windows, n_patterns, inside, size, block, side);
}

void sum_tile(const Pixels& pixels, const double* weights, const Exposures& exposures, const Patterns& patterns, const Further& further,
              Windows windows, const TileSums& out, double* scratch) {
  const int64_t n = pixels.count, n_patterns = patterns.count;
  const Derivatives rows = derivatives_in(scratch, n_patterns, n);
  const int64_t width = width_of_products(n_patterns, further.n_parts);
  double* const memory = scratch + doubles_of_derivatives(n_patterns, n);
  Run run{memory, memory + MOST_TOGETHER * width, memory + 2 * MOST_TOGETHER * width, width, 16 * n_patterns, further.n_parts, 0};
  for (int64_t place = 0; place < MOST_TOGETHER * width; ++place) run.derivatives[place] = 0.0;
  const auto positions = span_of(out.positions, patterns.n_unknowns);
  const auto moments = span_of(out.moments, n);
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    const Windows own = windows + 4 * n_patterns * exposure;
    if (own[1] == 0) continue;
    const auto own_weights = span_of(weights + exposure * n, n);
    fill_derivatives(pixels, exposures, patterns, exposure, rows);
    for (int64_t pixel = 0; pixel < n; ++pixel) {
      if (!(own_weights[pixel] > 0.0)) continue;
      moments[pixel] += own_weights[pixel];
      add_sums(rows, patterns, further, exposure, pixel, own_weights[pixel], positions, span_of(out.sums + pixel * out.n_columns, out.n_columns));
    }
    if (out.blocks) {
      const int64_t squared = out.side * out.side;
      add_block(rows, own_weights, own, n_patterns, run, span_of(out.blocks + exposure * squared, squared), out.side);
    }
  }
}

}  // namespace
}  // namespace permil::joint
