// Sums over blocks of pixels, and over the cells of a mosaic.
#pragma once
#include "flat/_kernels/rows.hpp"

namespace permil::flat {
namespace {

/// Add rows from y on to the sums of columns.
template <int ROWS, class Number>
void add_to_columns(const Rows<Number>& image, const Rows<uint8_t>& good, int64_t y, Span<double> columns, int64_t n) {
  constexpr Number ZERO = 0;
  const auto row = [&](int64_t k) { return span_of(image.first + (y + k) * image.step, n); };
  const auto flags = [&](int64_t k) { return span_of(good.first + (y + k) * good.step, n); };
  if (good.first == nullptr) {
    LOOP (int64_t x = 0; x < n; ++x) {
      double total = columns[x];
      for (int64_t k = 0; k < ROWS; ++k) total += double(row(k)[x]);
      columns[x] = total;
    }
  } else {
    LOOP (int64_t x = 0; x < n; ++x) {
      double total = columns[x];
      for (int64_t k = 0; k < ROWS; ++k) total += double(flags(k)[x] ? row(k)[x] : ZERO);
      columns[x] = total;
    }
  }
}

/// Sum columns over the rows of a block first, all side by side, then the columns of each block.
template <class Number>
void add_image(const Rows<Number>& image, const Rows<uint8_t>& good, const Shape& shape, const Blocks& blocks, double* sums, double* scratch) {
  const int64_t n = shape.columns;
  const auto columns = span_of(scratch, n);
  for (int64_t y = 0; y < shape.rows;) {
    const int64_t number = blocks.rows[y];
    const auto own = span_of(sums + number * blocks.columns, blocks.columns);
    for (int64_t x = 0; x < n; ++x) columns[x] = 0.0;
    int64_t last = y + 1;
    while (last < shape.rows && blocks.rows[last] == number) ++last;
    for (; y + 4 <= last; y += 4) add_to_columns<4>(image, good, y, columns, n);
    for (; y < last; ++y) add_to_columns<1>(image, good, y, columns, n);
    for (int64_t block = 0; block < blocks.columns; ++block) {
      double total = 0.0;
      for (int64_t x = block * blocks.size; x < smaller((block + 1) * blocks.size, n); ++x) total += columns[x];
      own[block] += total;
    }
  }
}

bool add_to_cells(const float* response, const float* variance, const bool* good, const int64_t* cells, int64_t n_pixels, double* sums,
                  int64_t n_cells) {
  const auto own_response = span_of(response, n_pixels), own_variance = span_of(variance, n_pixels);
  const auto is_good = span_of(good, n_pixels);
  const auto cell = span_of(cells, n_pixels);
  const auto total = span_of(sums, n_cells), noise = span_of(sums + n_cells, n_cells), count = span_of(sums + 2 * n_cells, n_cells);
  for (int64_t pixel = 0; pixel < n_pixels; ++pixel) {
    if (!is_good[pixel]) continue;
    const int64_t place = cell[pixel];
    if (place < 0 || place >= n_cells) return false;
    total[place] += double(own_response[pixel]);
    noise[place] += double(own_variance[pixel]);
    count[place] += 1.0;
  }
  return true;
}

}  // namespace
}  // namespace permil::flat
