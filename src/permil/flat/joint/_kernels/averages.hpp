// Averages of exposures over super-pixels, and the pattern of their pixels.
#pragma once
#include "_kernels/span.hpp"
#include "flat/joint/_kernels/kernels.hpp"
#include "isr/_kernels/planes.hpp"

namespace permil::joint {
namespace {

constexpr int ROUNDS = 4;
constexpr float NOTHING = __builtin_nanf("");

/// Exchange the numbers of two rows so that the smaller ones come first.
inline void sort_rows(Span<float> one, Span<float> two, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) {
    const float low = one[x], high = two[x];
    one[x] = low < high ? low : high;
    two[x] = low < high ? high : low;
  }
}

void medians(const float* const* images, int64_t n_images, int64_t n_pixels, float* result, float* scratch) {
  const auto row_of = [&](int64_t number) { return span_of(scratch + number * MEDIANS_TOGETHER, MEDIANS_TOGETHER); };
  for (int64_t first = 0; first < n_pixels; first += MEDIANS_TOGETHER) {
    const int64_t n = smaller(MEDIANS_TOGETHER, n_pixels - first);
    int32_t counts[MEDIANS_TOGETHER];
    const auto count = span_of(counts, n);
    for (int64_t x = 0; x < n; ++x) count[x] = 0;
    // What is missing comes last.
    for (int64_t number = 0; number < n_images; ++number) {
      const auto image = span_of(images[number] + first, n);
      const auto row = row_of(number);
      LOOP (int64_t x = 0; x < n; ++x) {
        count[x] += image[x] == image[x];
        row[x] = image[x] == image[x] ? image[x] : __builtin_inff();
      }
    }
    // Odd-even transposition: as many rounds as there are images sort all pixels side by side.
    for (int64_t round = 0; round < n_images; ++round)
      for (int64_t number = round % 2; number + 1 < n_images; number += 2) sort_rows(row_of(number), row_of(number + 1), n);
    const auto median = span_of(result + first, n);
    for (int64_t x = 0; x < n; ++x) {
      const int64_t middle = count[x] / 2;
      if (count[x] == 0) median[x] = NOTHING;
      else median[x] = count[x] % 2 ? row_of(middle)[x] : 0.5f * (row_of(middle - 1)[x] + row_of(middle)[x]);
    }
  }
}

void divide_blocks(const float* image, const uint8_t* good, const double* mean, int64_t n_rows, int64_t n_columns, int64_t block,
                   const int64_t* block_rows, float* result) {
  const int64_t n_blocks = (n_columns + block - 1) / block;
  for (int64_t row = 0; row < n_rows; ++row) {
    const auto pixels = span_of(image + row * n_columns, n_columns);
    const auto is_good = span_of(good + row * n_columns, n_columns);
    const auto quotients = span_of(result + row * n_columns, n_columns);
    for (int64_t number = 0; number < n_blocks; ++number) {
      const double own = mean[block_rows[row] * n_blocks + number];
      const int64_t last = smaller((number + 1) * block, n_columns);
      LOOP (int64_t x = number * block; x < last; ++x) quotients[x] = is_good[x] ? float(double(pixels[x]) / own) : NOTHING;
    }
  }
}

/// Sums of the columns of a row of super-pixels, the level that is expected, and the noise.
struct Columns {
  float *total, *weight, *count, *level, *noise;
};

/// Add the usable pixels of rows from `row` on; from the second round on without those that are off the level.
///
/// Columns are summed in single precision, which is enough for a signal of that precision.
template <int ROWS>
void add_pixels(const ExposurePixels& exposure, int64_t row, const Columns& columns, bool is_first, float limit) {
  const int64_t n = exposure.n_columns;
  const auto total = span_of(columns.total, n), weight = span_of(columns.weight, n), count = span_of(columns.count, n);
  const auto level = span_of(columns.level, n), noise = span_of(columns.noise, n);
  const auto signals = span_of(exposure.image + row * n, ROWS * n), shares = span_of(exposure.pattern + row * n, ROWS * n);
  const auto mask = span_of(exposure.mask + row * n, ROWS * n);
  LOOP (int64_t x = 0; x < n; ++x) {
    float sum = total[x], sum_of_shares = weight[x], pixels = count[x];
    for (int64_t k = 0; k < ROWS; ++k) {
      const float signal = signals[k * n + x], share = shares[k * n + x];
      const float expected = level[x] * share, off = signal - expected;
      const float spread = noise[x] + (expected > 0.0f ? expected : 0.0f);
      const bool is_usable = (__builtin_fabsf(signal * share) < __builtin_inff()) & ((mask[k * n + x] & isr::UNUSABLE) == 0);
      const bool is_used = is_usable & (is_first | (off * off <= limit * spread));
      sum += is_used ? signal : 0.0f;
      sum_of_shares += is_used ? share : 0.0f;
      pixels += is_used ? 1.0f : 0.0f;
    }
    total[x] = sum;
    weight[x] = sum_of_shares;
    count[x] = pixels;
  }
}

/// Sum the columns of each super-pixel: signals, and numbers of pixels; return how many pixels there are.
inline int64_t take_signals(const Columns& columns, int64_t block, int64_t n, Span<double> signals, Span<int64_t> kept, int64_t n_blocks) {
  const auto total = span_of(columns.total, n), weight = span_of(columns.weight, n), count = span_of(columns.count, n);
  const auto level = span_of(columns.level, n);
  int64_t all = 0;
  for (int64_t number = 0; number < n_blocks; ++number) {
    const int64_t last = smaller((number + 1) * block, n);
    double signal = 0.0, weights = 0.0, pixels = 0.0;
    for (int64_t x = number * block; x < last; ++x) {
      signal += double(total[x]);
      weights += double(weight[x]);
      pixels += double(count[x]);
    }
    kept[number] = weights > 0.0 ? int64_t(pixels) : 0;
    signals[number] = weights > 0.0 ? signal / weights : __builtin_nan("");
    for (int64_t x = number * block; x < last; ++x) level[x] = float(signals[number]);
    all += kept[number];
  }
  return all;
}

int64_t average(const ExposurePixels& exposure, const int64_t* limits, int64_t n_rows, const double* noise, float limit, double* signals,
                int64_t* kept, float* scratch) {
  const int64_t n = exposure.n_columns, block = exposure.block, n_blocks = (n + block - 1) / block;
  const Columns columns{scratch, scratch + n, scratch + 2 * n, scratch + 3 * n, scratch + 4 * n};
  const auto of_noise = span_of(columns.noise, n);
  int64_t rejected = 0;
  for (int64_t number = 0; number < n_rows; ++number) {
    const auto own_signals = span_of(signals + number * n_blocks, n_blocks);
    const auto own_kept = span_of(kept + number * n_blocks, n_blocks);
    for (int64_t x = 0; x < n; ++x) of_noise[x] = float(noise[number * n_blocks + x / block]);
    int64_t present = 0, all = 0;
    for (int round = 0; round < ROUNDS; ++round) {
      for (int64_t place = 0; place < 3 * n; ++place) scratch[place] = 0.0f;
      int64_t row = limits[number];
      for (; row + 4 <= limits[number + 1]; row += 4) add_pixels<4>(exposure, row, columns, round == 0, limit);
      for (; row < limits[number + 1]; ++row) add_pixels<1>(exposure, row, columns, round == 0, limit);
      const int64_t before = all;
      all = take_signals(columns, block, n, own_signals, own_kept, n_blocks);
      if (round == 0) present = all;
      // A level is that of its pixels: where they stay, it stays.
      else if (all == before) break;
    }
    rejected += present - all;
  }
  return rejected;
}

}  // namespace
}  // namespace permil::joint
