// Logarithms, responses and gradient of the signals of a detector.
#pragma once
#include "flat/joint/_kernels/spline.hpp"

namespace permil::joint {
namespace {

constexpr int REWEIGHTINGS = 8;
constexpr int64_t PIXELS_TOGETHER = 64;

void predict(const Pixels& pixels, const Exposures& exposures, const Patterns& patterns, const double* scales, const double* weather,
             double* result) {
  const int64_t n = pixels.count, n_smooth = exposures.n_smooth;
  const auto x = span_of(pixels.x, n), y = span_of(pixels.y, n);
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    const auto row = span_of(result + exposure * n, n);
    const double scale = scales[exposure];
    for (int64_t pixel = 0; pixel < n; ++pixel) row[pixel] = scale;
    for (int64_t pattern = 0; pattern < patterns.count; ++pattern)
      add_pattern(seen_in(patterns, exposures, pattern, exposure), span_of(patterns.vector, patterns.n_unknowns), x, y, row, n);
    if (n_smooth == 0) continue;
    const double* frame = exposures.frames + 3 * exposure;
    const auto coefficients = span_of(weather + n_smooth * exposure, n_smooth);
    LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
      double smooth[5], total = row[pixel];
      fill_smooth(x[pixel], y[pixel], frame, smooth);
      for (int64_t k = 0; k < 5; ++k) total += coefficients[k] * smooth[k];
      row[pixel] = total;
    }
  }
}

void evaluate(const Pixels& pixels, const Patterns& patterns, double* result) {
  const int64_t n = pixels.count;
  const auto x = span_of(pixels.x, n), y = span_of(pixels.y, n);
  const auto values = span_of(result, n);
  constexpr double at_rest[2] = {0.0, 0.0};
  const SeenPattern seen = seen_in(patterns, Exposures{1, at_rest, nullptr, 0}, 0, 0);
  for (int64_t point = 0; point < n; ++point) values[point] = 0.0;
  add_pattern(seen, span_of(patterns.vector, patterns.n_unknowns), x, y, values, n);
  for (int64_t point = 0; point < n; ++point) {
    const double at_x = (x[point] - seen.origin_x) / seen.spacing, at_y = (y[point] - seen.origin_y) / seen.spacing;
    const bool is_inside = (at_x >= 1.0) & (at_x <= seen.count_x - 2.0) & (at_y >= 1.0) & (at_y <= seen.count_y - 2.0);
    values[point] = is_inside ? values[point] : __builtin_nan("");
  }
}

/// Neighbouring super-pixels whose responses are solved for together.
struct Levels {
  double level[PIXELS_TOGETHER], before[PIXELS_TOGETHER], total[PIXELS_TOGETHER], moment[PIXELS_TOGETHER];
  double is_open[PIXELS_TOGETHER];  // 1 where the level may still change, else 0
};

/// Sum weights and moments of a row; from the second time on with Huber's factors for the levels.
inline void add_row(Span<const double> difference, Span<const double> weights, bool is_first, double threshold, Levels& sums, int64_t n) {
  const auto level = span_of(sums.level, n), total = span_of(sums.total, n), moment = span_of(sums.moment, n);
  if (is_first) {
    LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
      const double weight = weights[pixel];
      total[pixel] += weight > 0.0 ? weight : 0.0;
      moment[pixel] += weight > 0.0 ? weight * difference[pixel] : 0.0;
    }
  } else {
    LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
      const double weight = weights[pixel] > 0.0 ? weights[pixel] : 0.0;
      const double deviation = __builtin_fabs(difference[pixel] - level[pixel]) * __builtin_sqrt(weight);
      const double robust = deviation > threshold ? weight * (threshold / deviation) : weight;
      total[pixel] += robust;
      moment[pixel] += weight > 0.0 ? robust * difference[pixel] : 0.0;
    }
  }
}

/// Take the levels from the sums; return whether any of them may still change.
inline bool take_levels(Levels& sums, int64_t n) {
  const auto level = span_of(sums.level, n), before = span_of(sums.before, n), total = span_of(sums.total, n);
  const auto moment = span_of(sums.moment, n), is_open = span_of(sums.is_open, n);
  constexpr double NONE = __builtin_nan("");
  double open = 0.0;
  for (int64_t pixel = 0; pixel < n; ++pixel) {
    if (is_open[pixel] == 0.0) continue;
    level[pixel] = total[pixel] == 0.0 ? NONE : moment[pixel] / total[pixel];
    const bool is_done = total[pixel] == 0.0 || __builtin_fabs(level[pixel] - before[pixel]) < 1e-12;
    before[pixel] = level[pixel];
    is_open[pixel] = is_done ? 0.0 : 1.0;
    open += is_open[pixel];
  }
  return open > 0.0;
}

/// Turn a row into residuals and robust weights; add to the objective of each super-pixel.
inline void finish_row(Span<double> difference, Span<double> weights, double threshold, Span<const double> level, Span<double> objective,
                       int64_t n) {
  LOOP (int64_t pixel = 0; pixel < n; ++pixel) {
    const double weight = weights[pixel], residual = difference[pixel] - level[pixel];
    const double deviation = __builtin_fabs(residual) * __builtin_sqrt(weight > 0.0 ? weight : 0.0);
    const bool is_lit = weight > 0.0, is_far = deviation > threshold;
    const double square = is_far ? threshold * (2.0 * deviation - threshold) : deviation * deviation;
    objective[pixel] += is_lit ? square : 0.0;
    weights[pixel] = is_lit & is_far ? weight * threshold / deviation : weight;
    difference[pixel] = is_lit ? residual : 0.0;
  }
}

double profile_response(double* difference, double* weights, int64_t n_exposures, int64_t n_pixels, double threshold, double* response) {
  const int attempts = threshold < __builtin_inf() ? REWEIGHTINGS : 1;
  double objective = 0.0;
  for (int64_t first = 0; first < n_pixels; first += PIXELS_TOGETHER) {
    const int64_t n = smaller(PIXELS_TOGETHER, n_pixels - first);
    const auto difference_of = [&](int64_t exposure) { return span_of(difference + exposure * n_pixels + first, n); };
    const auto weights_of = [&](int64_t exposure) { return span_of(weights + exposure * n_pixels + first, n); };
    Levels sums;
    for (int64_t pixel = 0; pixel < n; ++pixel) {
      sums.level[pixel] = 0.0;
      sums.before[pixel] = __builtin_inf();
      sums.is_open[pixel] = 1.0;
    }
    for (int attempt = 0; attempt < attempts; ++attempt) {
      for (int64_t pixel = 0; pixel < n; ++pixel) sums.total[pixel] = sums.moment[pixel] = 0.0;
      for (int64_t exposure = 0; exposure < n_exposures; ++exposure)
        add_row(difference_of(exposure), weights_of(exposure), attempt == 0, threshold, sums, n);
      if (!take_levels(sums, n)) break;
    }
    const auto level = span_of(sums.level, n), squares = span_of(sums.total, n);
    for (int64_t pixel = 0; pixel < n; ++pixel) squares[pixel] = 0.0;
    for (int64_t exposure = 0; exposure < n_exposures; ++exposure)
      finish_row(difference_of(exposure), weights_of(exposure), threshold, level, squares, n);
    for (int64_t pixel = 0; pixel < n; ++pixel) {
      response[first + pixel] = level[pixel];
      objective += squares[pixel];
    }
  }
  return objective;
}

void slopes_along(const Pixels& pixels, const Exposures& exposures, const Patterns& patterns, double* result, int64_t stride) {
  const int64_t n = pixels.count;
  const auto x = span_of(pixels.x, n), y = span_of(pixels.y, n);
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    const auto slope_x = span_of(result + exposure * stride, n), slope_y = span_of(result + exposure * stride + n, n);
    for (int64_t pixel = 0; pixel < n; ++pixel) slope_x[pixel] = slope_y[pixel] = 0.0;
    for (int64_t pattern = 0; pattern < patterns.count; ++pattern)
      add_slopes(seen_in(patterns, exposures, pattern, exposure), span_of(patterns.vector, patterns.n_unknowns), x, y, slope_x, slope_y, n);
  }
}

/// Add part of a logarithm's pull to the gradient of the B-splines of a pattern.
inline void add_pull(double pull, const Derivatives& rows, int64_t pattern, const int64_t* counts, int64_t pixel, Span<double> gradient) {
  const int64_t first = counts[2] + rows.first(pattern, 0)[pixel] * counts[1] + rows.first(pattern, 1)[pixel];
  double along[4];
  for (int64_t j = 0; j < 4; ++j) along[j] = rows.values(pattern, 4 + j)[pixel];
  for (int64_t i = 0; i < 4; ++i) {
    const double part = pull * rows.values(pattern, i)[pixel];
    const auto own = part_of(gradient, first + i * counts[1], 4);
    for (int64_t j = 0; j < 4; ++j) own[j] += part * along[j];
  }
}

void add_gradient(const Pixels& pixels, const Exposures& exposures, const Patterns& patterns, const Further& further,
                  const double* residual, const double* weights, double* gradient, double* scratch) {
  const int64_t n = pixels.count;
  const Derivatives rows = derivatives_in(scratch, patterns.count, n);
  const auto all = span_of(gradient, patterns.n_unknowns);
  const auto slope_x = span_of(rows.slope_x, n), slope_y = span_of(rows.slope_y, n);
  const auto smooth = span_of(rows.smooth, 5 * n);
  for (int64_t exposure = 0; exposure < exposures.count; ++exposure) {
    const auto own_residual = span_of(residual + exposure * n, n), own_weights = span_of(weights + exposure * n, n);
    double sums[8] = {0.0};
    fill_derivatives(pixels, exposures, patterns, exposure, rows);
    for (int64_t pixel = 0; pixel < n; ++pixel) {
      const double pull = own_weights[pixel] * own_residual[pixel];
      if (pull == 0.0) continue;
      sums[0] += pull;
      sums[1] += pull * slope_x[pixel];
      sums[2] += pull * slope_y[pixel];
      for (int64_t k = 0; k < exposures.n_smooth; ++k) sums[3 + k] += pull * smooth[k * n + pixel];
      for (int64_t pattern = 0; pattern < patterns.count; ++pattern)
        add_pull(pull, rows, pattern, patterns.counts + 3 * pattern, pixel, all);
    }
    for (int64_t number = 0; number < further.count; ++number) {
      const int64_t entry = exposure * further.count + number;
      const auto parts = span_of(further.parts + entry * further.n_parts, further.n_parts);
      double total = parts[0] * sums[0] + parts[1] * sums[1] + parts[2] * sums[2];
      for (int64_t k = 3; k < further.n_parts; ++k) total += parts[k] * sums[k];
      all[further.columns[entry]] += total;
    }
  }
}

}  // namespace
}  // namespace permil::joint
