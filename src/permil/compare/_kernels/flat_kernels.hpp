// Kernels with which quantities of a star answer to the three kinds of a flat; see permil.compare.stars.response.
#pragma once
#include "compare/_kernels/star.hpp"

namespace permil::compare {
namespace {

/// Return the kernel of a kind and quantity.
inline double* kernel_of(const Stamp& stamp, int kind, int quantity) {
  return stamp.kernels + (kind * N_QUANTITIES + quantity) * stamp.size * stamp.size;
}

/// Fill the sum of differences to the four neighbours; pixels beyond the stamp are 0.
inline void five_point_laplacian(Span<const double> stamp, int64_t size, Span<double> out) {
  for (int64_t row = 0; row < size; ++row) {
    const auto own = part_of(stamp, row * size, size);
    const auto below = part_of(stamp, larger(row - 1, 0) * size, size), above = part_of(stamp, smaller(row + 1, size - 1) * size, size);
    const auto total = part_of(out, row * size, size);
    const double has_below = row > 0 ? 1.0 : 0.0, has_above = row < size - 1 ? 1.0 : 0.0;
    const auto sum_at = [&](int64_t column) { return -4.0 * own[column] + has_below * below[column] + has_above * above[column]; };
    total[0] = sum_at(0) + own[1];
    LOOP (int64_t column = 1; column < size - 1; ++column) total[column] = sum_at(column) + own[column - 1] + own[column + 1];
    total[size - 1] = sum_at(size - 1) + own[size - 2];
  }
}

/// Fill the light on the borders of pixels; borders near the edges of the stamp are closed.
inline void fill_borders(const Stamp& stamp) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of<const double>(stamp.light, pixels);
  const auto along_x = span_of(stamp.border_x, pixels), along_y = span_of(stamp.border_y, pixels);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) along_x[pixel] = along_y[pixel] = 0.0;
  for (int64_t row = 0; row < size; ++row)
    LOOP (int64_t at = row * size + 2; at < row * size + size - 3; ++at)
      along_x[at] = on_border(light[at] + light[at + 1], light[at - 1] + light[at + 2], light[at - 2] + light[at + 3]);
  LOOP (int64_t at = 2 * size; at < (size - 3) * size; ++at)
    along_y[at] = on_border(light[at] + light[at + size], light[at - size] + light[at + 2 * size], light[at - 2 * size] + light[at + 3 * size]);
}

/// Fill div(p grad k): charge moved across a border changes the quantity by the difference of k between its two pixels.
inline void fill_area_kernel(const Stamp& stamp, Span<const double> answer, Span<double> out) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto along_x = span_of<const double>(stamp.border_x, pixels), along_y = span_of<const double>(stamp.border_y, pixels);
  const auto step = span_of(stamp.work, pixels);
  LOOP (int64_t at = 0; at < pixels - 1; ++at) step[at] = along_x[at] * (answer[at + 1] - answer[at]);
  step[pixels - 1] = out[0] = 0.0;
  LOOP (int64_t at = 1; at < pixels; ++at) out[at] = step[at] - step[at - 1];
  LOOP (int64_t at = 0; at < pixels - size; ++at) step[at] = along_y[at] * (answer[at + size] - answer[at]);
  LOOP (int64_t at = size; at < pixels - size; ++at) out[at] = out[at] - step[at - size] + step[at];
}

/// Fill p laplacian(k), the Laplacian to sixth order in the pixel.
///
/// The potential belongs to the Laplacian of five points, whose eigenvalues are those of the true one times 1 + laplacian / 12.
inline void fill_diffusion_kernel(const Stamp& stamp, Span<const double> k, Span<double> out) {
  const int64_t size = stamp.size, pixels = size * size;
  const auto light = span_of<const double>(stamp.light, pixels);
  const auto work = span_of(stamp.work, pixels);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) out[pixel] = 0.0;
  for (int64_t row = 3; row < size - 3; ++row)
    LOOP (int64_t at = row * size + 3; at < row * size + size - 3; ++at) {
      const double near = k[at - 1] + k[at + 1] + k[at - size] + k[at + size];
      const double second = k[at - 2] + k[at + 2] + k[at - 2 * size] + k[at + 2 * size];
      const double third = k[at - 3] + k[at + 3] + k[at - 3 * size] + k[at + 3 * size];
      const double slopes = 270.0 * near - 27.0 * second + 2.0 * third - 980.0 * k[at];
      out[at] = light[at] * slopes / 180.0;
    }
  five_point_laplacian(out, size, work);
  LOOP (int64_t pixel = 0; pixel < pixels; ++pixel) out[pixel] += work[pixel] / 12.0;
}

/// Fill the kernels of the first quantities of a star: of efficiency on F - 1, of the others on the potential.
inline void fill_star_kernels(const Stamp& stamp, int quantities) {
  const int64_t pixels = stamp.size * stamp.size;
  const auto light = span_of<const double>(stamp.light, pixels);
  fill_borders(stamp);
  for (int quantity = 0; quantity < quantities; ++quantity) {
    const auto answer = span_of<const double>(stamp.answer + quantity * pixels, pixels);
    const auto efficiency = span_of(kernel_of(stamp, 0, quantity), pixels);
    LOOP (int64_t pixel = 0; pixel < pixels; ++pixel) efficiency[pixel] = answer[pixel] * light[pixel];
    fill_area_kernel(stamp, answer, span_of(kernel_of(stamp, 1, quantity), pixels));
    fill_diffusion_kernel(stamp, answer, span_of(kernel_of(stamp, 2, quantity), pixels));
  }
}

/// Fill the kernels of area of the first quantities for even light of one per pixel: all kinds change it by F - 1 = laplacian(potential).
/// Those of diffusion are the same, those of efficiency are the answers.
inline void fill_glow_kernels(const Stamp& stamp, int quantities) {
  const int64_t pixels = stamp.size * stamp.size;
  for (int quantity = 0; quantity < quantities; ++quantity)
    five_point_laplacian(span_of<const double>(stamp.answer + quantity * pixels, pixels), stamp.size,
                         span_of(kernel_of(stamp, 1, quantity), pixels));
}

}  // namespace
}  // namespace permil::compare
