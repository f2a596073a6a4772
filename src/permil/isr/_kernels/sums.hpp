// Streaming sums of a stack: of each pixel the two largest and the smallest measurement are kept with the light of their frames, all
// others go into weighted sums (West 1979, Comm. ACM 22, 532). With q the relative light of a frame and d its signal, x = d / q is
// compared and q its weight.
//
// Loops choose instead of branching, since it cannot be foreseen which measurement is an extreme.
#pragma once
#include <limits>

#include "isr/_kernels/chain.hpp"

namespace permil::isr {
namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();

/// Return sums from a pixel on.
inline Sums sums_from(const Sums& sums, int64_t first) {
  return {sums.signal + first,     sums.light + first,        sums.squares + first,  sums.high + first,
          sums.second + first,     sums.low + first,          sums.high_light + first, sums.second_light + first,
          sums.low_light + first,  sums.measured + first,     sums.planes + first};
}

/// Return memory for sums of n pixels.
inline Sums empty_sums(int64_t n, Scratch& scratch) {
  Sums sums;
  sums.signal = take<double>(scratch, n);
  for (float** each : {&sums.light, &sums.squares, &sums.high, &sums.second, &sums.low, &sums.high_light, &sums.second_light, &sums.low_light})
    *each = take<float>(scratch, n);
  sums.measured = take<uint16_t>(scratch, n);
  sums.planes = take<int16_t>(scratch, n);
  return sums;
}

/// Set sums to those of an empty stack.
inline void clear_sums(const Sums& sums, int64_t n) {
  fill_row(span_of(sums.signal, n), 0.0, n);
  for (float* each : {sums.light, sums.squares, sums.high_light, sums.second_light, sums.low_light}) fill_row(span_of(each, n), 0.0f, n);
  for (float* each : {sums.high, sums.second}) fill_row(span_of(each, n), -INFINITE, n);
  fill_row(span_of(sums.low, n), INFINITE, n);
  fill_row(span_of(sums.measured, n), uint16_t(0), n);
  fill_row(span_of(sums.planes, n), int16_t(0), n);
}

/// Light and number of frames common to all pixels of a row; kept out of the sums as long as they are the same.
struct Alike {
  bool is_so;
  float light;      // sum of q
  uint16_t frames;  // how many have been added
};

/// Store the common light and number of frames of a row in its sums; its pixels may differ from here on.
inline void end_alike(Alike& alike, const Sums& sums, int64_t n) {
  if (!alike.is_so) return;
  fill_row(span_of(sums.light, n), alike.light, n);
  fill_row(span_of(sums.measured, n), alike.frames, n);
  alike.is_so = false;
}

/// Add a row without missing pixels to a row with common light and count, with the same bits as `add_row`.
inline void add_even_row(const Sums& sums, Alike& alike, Span<const float> signal, float light, int64_t n) {
  const auto total = span_of(sums.signal, n);
  const auto squares = span_of(sums.squares, n);
  const float scale = 1.0f / light, before = alike.light;
  if (before > 0.0f) {
    const float factor = light / (before * (before + light));
    const double frames_before = before;
    LOOP (int64_t x = 0; x < n; ++x) {
      const float deviation = float(double(signal[x] * scale) * frames_before - total[x]);
      squares[x] += deviation * deviation * factor;
    }
  }
  const double weight = light;
  LOOP (int64_t x = 0; x < n; ++x) total[x] += double(signal[x] * scale) * weight;
  alike.light += light;
  ++alike.frames;
}

/// A row of measurements displaced by new extremes: x, and q (0 for none).
struct Displaced {
  float *sample, *light;
};

/// Insert measurements among the two largest; the displaced measurement, or the new one, is passed on.
inline void exchange_high(const Sums& sums, const Displaced& displaced, int64_t n) {
  const auto high = span_of(sums.high, n), second = span_of(sums.second, n);
  const auto high_light = span_of(sums.high_light, n), second_light = span_of(sums.second_light, n);
  const auto inner = span_of(displaced.sample, n), inner_light = span_of(displaced.light, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const float largest = high[x], larger = second[x], largest_light = high_light[x], larger_light = second_light[x];
    const float weight = inner_light[x], sample = weight > 0.0f ? inner[x] : -INFINITE;
    const bool is_largest = sample > largest, is_larger = sample > larger;
    const float own_light = is_larger ? weight : larger_light, own = is_larger ? sample : larger;
    high_light[x] = is_largest ? weight : largest_light;
    second_light[x] = is_largest ? largest_light : own_light;
    inner_light[x] = is_larger ? larger_light : weight;
    high[x] = is_largest ? sample : largest;
    second[x] = is_largest ? largest : own;
    inner[x] = is_larger ? larger : sample;
  }
}

/// Insert measurements as the smallest; the displaced measurement, or the new one, is passed on.
inline void exchange_low(const Sums& sums, const Displaced& displaced, int64_t n) {
  const auto low = span_of(sums.low, n), low_light = span_of(sums.low_light, n);
  const auto inner = span_of(displaced.sample, n), inner_light = span_of(displaced.light, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const float sample = inner[x], weight = inner_light[x], smallest = low[x], smallest_light = low_light[x];
    const bool is_smallest = (weight > 0.0f ? sample : INFINITE) < smallest;
    low[x] = is_smallest ? sample : smallest;
    low_light[x] = is_smallest ? weight : smallest_light;
    const float left = is_smallest ? smallest_light : weight, fallen = is_smallest ? smallest : sample;
    inner[x] = left > 0.0f ? fallen : 0.0f;
    inner_light[x] = left;
  }
}

/// Add measurements between the extremes with weight q: West's update, with x - S / Q as (x Q - S) / Q to save a division.
inline void add_inner(const Sums& sums, const Displaced& displaced, int64_t n) {
  const auto total = span_of(sums.signal, n);
  const auto amount = span_of(sums.light, n), squares = span_of(sums.squares, n);
  const auto inner = span_of(displaced.sample, n), inner_light = span_of(displaced.light, n);
  LOOP (int64_t x = 0; x < n; ++x) {
    const float sample = inner[x], weight = inner_light[x], before = amount[x];
    const float deviation = float(double(sample) * double(before) - total[x]);
    const float added = deviation * deviation * (weight / (before * (before + weight)));
    squares[x] += (before > 0.0f) & (weight > 0.0f) ? added : 0.0f;
  }
  LOOP (int64_t x = 0; x < n; ++x) total[x] += double(inner[x]) * double(inner_light[x]);
  LOOP (int64_t x = 0; x < n; ++x) amount[x] += inner_light[x];
}

/// Add a row of a frame with q = `light`; `has_extremes`: whether extremes are stored separately.
inline void add_row(const Sums& sums, Span<const float> signal, Span<const int16_t> mask, float light, bool has_extremes,
                    const Displaced& displaced, int64_t n) {
  const auto inner = span_of(displaced.sample, n), inner_light = span_of(displaced.light, n);
  const auto measured = span_of(sums.measured, n);
  const auto planes = span_of(sums.planes, n);
  const float scale = 1.0f / light;
  LOOP (int64_t x = 0; x < n; ++x) {
    const float sample = signal[x] * scale;
    const bool is_usable = ((mask[x] & LEFT_OUT) == 0) & (sample == sample);
    inner[x] = is_usable ? sample : 0.0f;
    inner_light[x] = is_usable ? light : 0.0f;
  }
  LOOP (int64_t x = 0; x < n; ++x) measured[x] += uint16_t(inner_light[x] > 0.0f);
  LOOP (int64_t x = 0; x < n; ++x) planes[x] |= mask[x];
  if (has_extremes) {
    exchange_high(sums, displaced, n);
    exchange_low(sums, displaced, n);
  }
  add_inner(sums, displaced, n);
}

}  // namespace
}  // namespace permil::isr
