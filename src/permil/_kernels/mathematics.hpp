// Small functions of numbers in kernels.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "_kernels/span.hpp"

namespace permil {
namespace {

/// Return a value, or the least one that it may have; the latter for NaN.
template <class T>
inline T at_least(T value, T least) {
  return value > least ? value : least;
}

/// Return a value, or the largest one that it may have; the latter for NaN.
template <class T>
inline T at_most(T value, T most) {
  return value < most ? value : most;
}

/// Return the first pixel along an axis whose centre is not below an edge; 0 for NaN, `size` where there is none.
inline int64_t first_pixel(double edge, int64_t size) {
  if (!(edge > 0.0)) return 0;
  return edge < double(size) ? int64_t(std::ceil(edge)) : size;
}

/// Return the last pixel along an axis whose centre is not above an edge; -1 for NaN or where there is none.
inline int64_t last_pixel(double edge, int64_t size) {
  if (!(edge >= 0.0)) return -1;
  return edge < double(size) ? smaller(int64_t(std::floor(edge)), size - 1) : size - 1;
}

/// Return the integral of sqrt(radius^2 - t^2) from 0 to x.
inline double under_circle(double x, double radius) {
  return 0.5 * (x * std::sqrt(at_least(radius * radius - x * x, 0.0)) + radius * radius * std::asin(at_most(x / radius, 1.0)));
}

/// Return exp(x) to two units of the last place, limited to the range of normal numbers; unlike std::exp it runs on vector units, with the
/// same bits everywhere.
inline double fast_exp(double x) {
  // x = n log 2 + rest; adding and subtracting 1.5 2^52 rounds to an integer, which then lies in the lowest bits.
  constexpr double LOG2_E = 1.4426950408889634074, LOG_2 = 6.93147180369123816490e-01, REST_OF_LOG_2 = 1.90821492927058770002e-10;
  constexpr double ROUNDER = 6755399441055744.0;
  x = at_most(at_least(x, -708.0), 709.0);
  const double shifted = x * LOG2_E + ROUNDER, n = shifted - ROUNDER;
  const double rest = (x - n * LOG_2) - n * REST_OF_LOG_2;
  double sum = 1.0 / 479001600.0;
  sum = sum * rest + 1.0 / 39916800.0;
  sum = sum * rest + 1.0 / 3628800.0;
  sum = sum * rest + 1.0 / 362880.0;
  sum = sum * rest + 1.0 / 40320.0;
  sum = sum * rest + 1.0 / 5040.0;
  sum = sum * rest + 1.0 / 720.0;
  sum = sum * rest + 1.0 / 120.0;
  sum = sum * rest + 1.0 / 24.0;
  sum = sum * rest + 1.0 / 6.0;
  sum = sum * rest + 0.5;
  sum = sum * rest + 1.0;
  sum = sum * rest + 1.0;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

/// Inverse of a covariance in two dimensions.
struct Inverse {
  double xx, yy, xy;
};

inline Inverse inverse_of(double xx, double yy, double xy) {
  const double determinant = xx * yy - xy * xy;
  return {yy / determinant, xx / determinant, -xy / determinant};
}

/// Return a density on a border, to sixth order, from sums over the two pixels nearest to it, the next two and those after.
inline double on_border(double nearest, double second, double third) { return (37.0 * nearest - 8.0 * second + third) / 60.0; }

/// Invert a small matrix by elimination with partial pivoting; return its determinant. Its inverse is NaN where that is 0.
template <int N>
double invert(const double (&matrix)[N][N], double (&inverse)[N][N]) {
  double left[N][N], determinant = 1.0;
  for (int row = 0; row < N; ++row)
    for (int column = 0; column < N; ++column) {
      left[row][column] = matrix[row][column];
      inverse[row][column] = row == column ? 1.0 : 0.0;
    }
  for (int step = 0; step < N; ++step) {
    int pivot = step;
    for (int row = step + 1; row < N; ++row)
      if (std::fabs(left[row][step]) > std::fabs(left[pivot][step])) pivot = row;
    if (pivot != step) determinant = -determinant;
    determinant *= left[pivot][step];
    const double scale = determinant != 0.0 ? 1.0 / left[pivot][step] : double(NAN);
    for (int column = 0; column < N; ++column) {
      const double own = left[pivot][column] * scale, other = inverse[pivot][column] * scale;
      left[pivot][column] = left[step][column];
      inverse[pivot][column] = inverse[step][column];
      left[step][column] = own;
      inverse[step][column] = other;
    }
    for (int row = 0; row < N; ++row) {
      if (row == step) continue;
      const double factor = left[row][step];
      for (int column = 0; column < N; ++column) {
        left[row][column] -= factor * left[step][column];
        inverse[row][column] -= factor * inverse[step][column];
      }
    }
  }
  return determinant;
}

}  // namespace
}  // namespace permil
