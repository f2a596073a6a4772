// Pixels within circles around spots, and means of pixels.
#pragma once
#include "_kernels/mathematics.hpp"
#include "spots/_kernels/structs.hpp"

namespace permil::spots {
namespace {

/// Call use(row, first column, last column) for the rows of a circle.
template <class Use>
void for_rows_of_disc(double x, double y, double radius, int64_t ny, int64_t nx, const Use& use) {
  const int64_t last_row = last_pixel(y + radius, ny);
  for (int64_t row = first_pixel(y - radius, ny); row <= last_row; ++row) {
    const double v = double(row) - y, half = std::sqrt(radius * radius - v * v);
    use(row, first_pixel(x - half, nx), last_pixel(x + half, nx));
  }
}

/// Fill a row with the means of the usable ones among 2 x 2 pixels, and where there is none.
inline void bin_row(Span<const float> image, Span<const bool> usable, int64_t nx, Span<float> binned, Span<bool> empty) {
  LOOP (int64_t column = 0; column < nx / 2; ++column) {
    float total = 0.0f, count = 0.0f;
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t pixel = row * nx + 2 * column; pixel < row * nx + 2 * column + 2; ++pixel) {
        total += usable[pixel] ? image[pixel] : 0.0f;
        count += usable[pixel] ? 1.0f : 0.0f;
      }
    binned[column] = count > 0.0f ? total / count : 0.0f;
    empty[column] = count == 0.0f;
  }
}

}  // namespace
}  // namespace permil::spots
