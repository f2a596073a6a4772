// The chain from raw counts to electrons: everything that reduces pixels calls `electrons_of_row`.
#pragma once
#include <limits>

#include "exposures/_kernels/rows.hpp"
#include "isr/_kernels/lost.hpp"
#include "isr/_kernels/overscan.hpp"
#include "isr/_kernels/response.hpp"

namespace permil::isr {
namespace {

template <class T>
T* take(Scratch& scratch, int64_t n) {
  return static_cast<T*>(scratch.take(size_t(n) * sizeof(T)));
}

template <class From, class To>
void copy_row(Span<From> from, Span<To> to, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) to[x] = from[x];
}

/// Copy a row, so that it runs the other way if it is flipped.
template <class From, class To>
void place_row(Span<From> from, Span<To> to, int64_t n, bool is_flipped) {
  if (!is_flipped) return copy_row(from, to, n);
  LOOP (int64_t x = 0; x < n; ++x) to[x] = from[n - 1 - x];
}

template <class T>
void fill_row(Span<T> row, T value, int64_t n) {
  LOOP (int64_t x = 0; x < n; ++x) row[x] = value;
}

/// Return memory for a raw row of all segments.
inline Row empty_row(const Segments& own, Scratch& scratch) {
  const int64_t pixels = own.count * own.n_columns;
  Row row{take<const int32_t*>(scratch, own.count),
          take<int32_t>(scratch, own.count * own.width),
          take<float>(scratch, own.bias ? pixels : 0),
          take<int16_t>(scratch, pixels),
          take<float>(scratch, pixels),
          take<float>(scratch, own.crosstalk ? pixels : 0),
          take<Lost>(scratch, own.count),
          take<Overscan>(scratch, own.count),
          take<float>(scratch, own.n_columns),
          take<int16_t>(scratch, own.n_columns),
          false,
          true};
  for (int64_t segment = 0; segment < own.count; ++segment) row.overscan[segment] = {0.0, 0.0, 0};
  return row;
}

/// Take superbias and static mask of a raw row, in the order of readout.
inline void take_calibration(const Segments& own, int64_t number, Row& row) {
  const int64_t n = own.n_columns;
  for (int64_t segment = 0; segment < own.count; ++segment) {
    const int64_t at = (own.y_first[segment] + own.y_step[segment] * number) * own.nx + own.x_min[segment];
    const bool flip = own.flip_x[segment];
    place_row(span_of(own.static_mask + at, n), span_of(row.static_mask + segment * n, n), n, flip);
    if (own.bias) place_row(span_of(own.bias + at, n), span_of(row.bias + segment * n, n), n, flip);
  }
}

/// Subtract level and superbias from a segment, adu; lost pixels become 0, so that they neither couple nor saturate.
inline void measure_segment(const Segments& own, const Frame& frame, int64_t segment, Row& row) {
  const int64_t n = own.n_columns, first = own.first_column;
  const Span<const int32_t> counts = span_of(row.counts[segment], own.width);
  Lost& lost = row.lost[segment];
  lost = {0, 0, 0, false};
  if (repeats_counts(counts, own.width, first, first + n)) lost = lost_columns(counts, own.width, first, first + n, own.saturation_adu);
  Overscan& overscan = row.overscan[segment];
  if (frame.level != LevelFrom::known && lost.end - lost.begin < n) {
    const int64_t n_overscan = own.last_overscan - own.first_overscan;
    const auto columns = part_of(counts, own.first_overscan, n_overscan);
    if (frame.level == LevelFrom::median) overscan.level = median_of_counts(columns, n_overscan, overscan.level);
    else overscan = overscan_of_row(columns, n_overscan, overscan.level, frame.clip[segment], own.row_mean);
  }
  const auto measured = span_of(row.measured + segment * n, n);
  const auto bias = span_of<const float>(own.bias ? row.bias + segment * n : nullptr, own.bias ? n : 0);
  to_measured(part_of(counts, first, n), overscan.level, bias, own.bias != nullptr, measured, n);
  for (int64_t x = lost.begin; x < lost.end; ++x) measured[x] = 0.0f;
}

/// Turn adu of a segment into electrons, and flag them.
inline void respond_segment(const Segments& own, const Frame& frame, int64_t segment, Span<const float> measured, Row& row) {
  const int64_t n = own.n_columns;
  const auto counts = span_of(row.counts[segment] + own.first_column, n);
  const auto signal = span_of(row.signal, n);
  const auto planes = span_of(row.planes, n);
  const Response response = response_of(own, segment, frame.gain[segment]);
  copy_row(span_of(row.static_mask + segment * n, n), planes, n);
  row.is_beyond = to_electrons(measured, response, signal, n);
  row.is_beyond |= any_saturated(counts, own.saturation_adu, n);
  if (row.is_beyond) flag_response(counts, own.saturation_adu, measured, response, planes, n);
  const bool is_dead = frame.dead && frame.dead[segment];
  const int64_t begin = is_dead ? 0 : row.lost[segment].begin, end = is_dead ? n : row.lost[segment].end;
  for (int64_t x = begin; x < end; ++x) {
    signal[x] = std::numeric_limits<float>::quiet_NaN();
    planes[x] |= NO_DATA;
  }
  row.is_whole = !row.is_beyond && begin == end;
}

/// Turn the counts of one raw row of all segments into electrons; use(segment) takes signal and planes of each segment in turn.
///
/// `take_calibration` was called for the row. Known levels are those of row.overscan.
template <class Use>
void electrons_of_row(const Segments& own, const Frame& frame, Row& row, const Use& use) {
  const int64_t n = own.n_columns;
  for (int64_t segment = 0; segment < own.count; ++segment) measure_segment(own, frame, segment, row);
  const float* adu = row.measured;
  if (own.crosstalk) {
    subtract_crosstalk(span_of<const float>(row.measured, own.count * n), span_of(own.crosstalk, own.count * own.count),
                       span_of(row.signal, n), span_of(row.corrected, own.count * n), own.count, n);
    adu = row.corrected;
  }
  for (int64_t segment = 0; segment < own.count; ++segment) {
    respond_segment(own, frame, segment, span_of(adu + segment * n, n), row);
    use(segment);
  }
}

/// Decode the i-th row of all segments of a file; return the first segment that does not decode, -1 if all do.
inline int64_t decode_counts(const CodedRows& coded, const Segments& own, int64_t file, int64_t index, Row& row) {
  for (int64_t segment = 0; segment < own.count; ++segment) {
    row.counts[segment] = row.decoded + segment * own.width;
    const auto counts = span_of(row.decoded + segment * own.width, own.width);
    if (!exposures::decode_row(coded, file, segment, index, counts, own.width)) return segment;
  }
  return -1;
}

}  // namespace
}  // namespace permil::isr
