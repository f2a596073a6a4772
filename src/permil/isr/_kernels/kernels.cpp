// The kernels of permil.isr; compiled once for each level of instructions.
#include "isr/_kernels/kernels.hpp"

#include "isr/_kernels/fit.hpp"
#include "isr/_kernels/rejection.hpp"

namespace permil::isr {
namespace {

/// Append the runs of saturated pixels of a row.
void add_runs(Span<const int16_t> planes, int64_t n, int64_t file, int64_t segment, int64_t number, Table<int64_t, 5>& runs) {
  for (int64_t x = 0; x < n;) {
    const int64_t begin = x;
    while (x < n && planes[x] & SAT) ++x;
    if (x > begin) runs.add({file, segment, number, begin, x});
    else ++x;
  }
}

/// Flag pixels of a row beside saturated ones.
void flag_spread(const Spread& spread, int64_t place, Span<int16_t> planes) {
  for (int64_t entry = spread.first[place]; entry < spread.first[place + 1]; ++entry)
    for (int64_t x = spread.start[entry]; x < spread.stop[entry]; ++x) planes[x] |= SAT;
}

/// Return whether no pixel of a row is excluded from sums.
bool is_all_measured(Span<const int16_t> planes, int64_t n) {
  int16_t all = 0;
  for (int64_t x = 0; x < n; ++x) all |= planes[x];
  return (all & LEFT_OUT) == 0;
}

void add_rows(const CodedRows& coded, const int64_t* rows, int64_t n_rows, int64_t first_index, const Segments& own, const Frames& frames,
              bool measure, const Spread& spread, const double* noise_variance, const NoiseTest& test, const Averages& out, Scratch& scratch,
              StackedRows& found) {
  const int64_t n = own.n_columns;
  const bool has_extremes = std::isfinite(test.threshold);
  Row row = empty_row(own, scratch);
  const Sums all_sums = empty_sums(own.count * n, scratch);
  Alike* const alike = take<Alike>(scratch, own.count);
  const Displaced displaced{take<float>(scratch, n), take<float>(scratch, n)};
  const Means means = empty_means(n, scratch);
  for (int64_t index = 0; index < n_rows; ++index) {
    const int64_t number = rows[index], place = first_index + index;
    take_calibration(own, number, row);
    for (int64_t segment = 0; segment < own.count; ++segment) {
      const Sums sums = sums_from(all_sums, segment * n);
      const auto static_mask = span_of(row.static_mask + segment * n, n);
      clear_sums(sums, n);
      copy_row(static_mask, span_of(sums.planes, n), n);
      alike[segment] = {!has_extremes && is_all_measured(static_mask, n), 0.0f, 0};
    }
    for (int64_t file = 0; file < coded.n_files; ++file) {
      const int64_t segment = decode_counts(coded, own, file, index, row);
      if (segment >= 0) {
        found.damaged_file = file;
        found.damaged_segment = segment;
        return;
      }
      const int64_t of_file = file * own.count;
      const Frame frame{frames.gain + of_file, frames.dead + of_file, frames.clip + of_file,
                        measure ? LevelFrom::overscan : LevelFrom::known};
      for (int64_t s = 0; s < own.count; ++s) {
        // The level of the row before is the guess where levels are measured.
        const double* levels = frames.level + (of_file + s) * frames.n_rows;
        row.overscan[s] = {levels[measure ? larger(place - 1, 0) : place], 0.0, 0};
      }
      electrons_of_row(own, frame, row, [&](int64_t s) {
        const Lost& lost = row.lost[s];
        if (lost.end > lost.begin) found.lost.add({file, s, number, lost.begin, lost.end, lost.value, lost.is_fault});
        if (measure && lost.end - lost.begin < n) {
          const int64_t at = (of_file + s) * frames.n_rows + place;
          frames.level[at] = row.overscan[s].level;
          frames.squares[at] = row.overscan[s].squares;
          frames.freedom[at] = row.overscan[s].freedom;
        }
        const auto planes = span_of(row.planes, n);
        const auto signal = span_of<const float>(row.signal, n);
        if (row.is_beyond) add_runs(planes, n, file, s, number, found.runs);
        if (spread.first) flag_spread(spread, (of_file + s) * (n_rows + 1) + index, planes);
        const Sums sums = sums_from(all_sums, s * n);
        if (alike[s].is_so && row.is_whole && !spread.first) return add_even_row(sums, alike[s], signal, frames.light[file], n);
        end_alike(alike[s], sums, n);
        add_row(sums, signal, planes, frames.light[file], has_extremes, displaced, n);
      });
    }
    for (int64_t segment = 0; segment < own.count; ++segment) {
      const Sums sums = sums_from(all_sums, segment * n);
      end_alike(alike[segment], sums, n);
      NoiseTest own_test = test;
      own_test.noise_variance = noise_variance[own.amplifiers[segment]];
      const Placement where{own.x_min[segment], n, own.flip_x[segment], own.y_first[segment], own.y_step[segment]};
      average_row(sums, own.amplifiers[segment], number, own_test, where, means, out, found.doubtful);
    }
  }
}

void average_doubtful(const int64_t* places, const double* sums, int64_t n, const double* noise_variance, const NoiseTest& test,
                      const Averages& out) {
  for (int64_t entry = 0; entry < n; ++entry) {
    const int64_t* place = places + 3 * entry;
    const int64_t at = place[1] * out.nx + place[2], measured = int64_t(sums[10 * entry + 9]);
    NoiseTest own_test = test;
    own_test.noise_variance = noise_variance[place[0]];
    const Tested tested = average_tested(sums + 10 * entry, own_test);
    out.image[at] = float(tested.signal / tested.light * test.mean_light);
    out.variance[at] = float(tested.light);
    out.squares[at] = float(test.mean_light * tested.squares);
    out.kept[at] = uint16_t(tested.kept);
    out.rejected[at] = uint8_t(measured - tested.kept);
    if (tested.kept < measured) out.mask[at] |= REJECTED;
  }
}

void finish_rows(int64_t n_rows, const NoiseTest& test, const Placement& place, const Averages& out, Scratch& scratch, double* chi_square,
                 int64_t* freedom) {
  const int64_t n = place.n_columns;
  const auto limits = span_of(take<double>(scratch, test.n_frames), test.n_frames);
  const FitRow row{take<double>(scratch, n), take<double>(scratch, n), take<int32_t>(scratch, n)};
  chi_square_limits(limits, test.n_frames, test.threshold);
  for (int64_t number = 0; number < n_rows; ++number) {
    const int64_t at = (place.y_first + place.y_step * number) * out.nx + place.x_min;
    finish_row(test, limits, at, n, out, row, chi_square[number], freedom[number]);
  }
}

void reduce_rows(const Source& source, int64_t first, int64_t last, const Segments& own, const Frame& frame, const double* levels,
                 const Target& target, Scratch& scratch, ReducedRows& found) {
  const int64_t n = own.n_columns;
  Row row = empty_row(own, scratch);
  for (int64_t number = first; number < last; ++number) {
    const int64_t index = number - first;
    if (source.coded) {
      found.damaged_segment = decode_counts(*source.coded, own, 0, number, row);
      if (found.damaged_segment >= 0) return;
    } else {
      for (int64_t s = 0; s < own.count; ++s) row.counts[s] = source.segments[s] + index * own.width;
    }
    if (levels)
      for (int64_t s = 0; s < own.count; ++s) row.overscan[s].level = levels[s * (last - first) + index];
    take_calibration(own, number, row);
    electrons_of_row(own, frame, row, [&](int64_t s) {
      const Lost& lost = row.lost[s];
      if (lost.end > lost.begin) found.lost.add({s, number, lost.begin, lost.end, lost.value, lost.is_fault});
      if (target.first_y[s] < 0) return;
      found.is_beyond |= row.is_beyond;
      const int64_t at = (target.first_y[s] + target.y_step[s] * index) * target.nx + target.x_min[s];
      place_row(span_of(row.signal, n), span_of(target.image + at, n), n, target.flip_x[s]);
      place_row(span_of(row.planes, n), span_of(target.mask + at, n), n, target.flip_x[s]);
    });
  }
}

/// Let lowest and highest count of a segment cover a row.
void extend_range(Span<const int32_t> counts, int64_t n, int32_t& lowest, int32_t& highest) {
  int32_t low = lowest, high = highest;
  for (int64_t x = 0; x < n; ++x) low = counts[x] < low ? counts[x] : low;
  for (int64_t x = 0; x < n; ++x) high = counts[x] > high ? counts[x] : high;
  lowest = low;
  highest = high;
}

/// Take good pixels of a row for the median of the light.
void take_light(const Row& row, int64_t n, int64_t segment, const Samples& samples) {
  const auto signal = span_of(row.signal, n);
  const auto planes = span_of(row.planes, n);
  const auto light = span_of(samples.light + segment * samples.most_light, samples.most_light);
  for (int64_t x = 0; x < n; x += samples.light_columns) {
    if ((planes[x] & NOT_GOOD) == 0) light[samples.n_light[segment]++] = signal[x];
    samples.n_usable[segment] += (planes[x] & UNUSABLE) == 0;
  }
}

int64_t probe_rows(const CodedRows& coded, const int64_t* rows, int64_t n_rows, const Segments& own, const double* gain,
                   const Samples& samples, Scratch& scratch) {
  const int64_t n = own.n_columns, first = own.first_column, n_overscan = own.last_overscan - own.first_overscan;
  // Light and all the more its median do not need the mean that some methods take for the level.
  const Frame frame{gain, nullptr, nullptr, LevelFrom::median};
  Row row = empty_row(own, scratch);
  for (int64_t index = 0; index < n_rows; ++index) {
    const int64_t number = rows[index], segment = decode_counts(coded, own, 0, index, row);
    if (segment >= 0) return segment;
    for (int64_t s = 0; s < own.count; ++s) {
      const auto counts = span_of(row.counts[s], own.width);
      const Lost lost = lost_columns(counts, own.width, first, first + n, own.saturation_adu);
      extend_range(counts, own.width, samples.lowest[s], samples.highest[s]);
      samples.lost[s * samples.n_rows + number] = lost.end > lost.begin;
      if (number % samples.overscan_rows == 0 && lost.end - lost.begin < n) {
        const int64_t place = s * samples.most_overscans + samples.n_overscans[s]++;
        copy_row(part_of(counts, own.first_overscan, n_overscan), span_of(samples.overscans + place * n_overscan, n_overscan), n_overscan);
      }
    }
    if (number % samples.light_rows != 0) continue;
    take_calibration(own, number, row);
    electrons_of_row(own, frame, row, [&](int64_t s) { take_light(row, n, s, samples); });
  }
  return -1;
}

int64_t row_medians(const int32_t* counts, int64_t width, int64_t first, int64_t last, const bool* measured, int64_t n_rows, int64_t step,
                    double* medians, double* deviations, Scratch& scratch) {
  const int64_t n = last - first;
  const auto doubled = span_of(take<int32_t>(scratch, n), n);
  int64_t n_deviations = 0;
  for (int64_t number = 0; number < n_rows; ++number) {
    medians[number] = 0.0;
    if (!measured[number]) continue;
    const auto overscan = span_of(counts + number * width + first, n);
    medians[number] = median_of_counts(overscan, n, medians[larger(number - 1, 0)]);
    if (number % step == 0) deviations[n_deviations++] = median_deviation(overscan, n, medians[number], doubled);
  }
  return n_deviations;
}

void clip_rows(const int32_t* counts, int64_t width, int64_t first, int64_t last, const bool* measured, int64_t n_rows,
               const double* centre, double limit, int64_t* kept, double* total, double* squares) {
  const int64_t n = last - first;
  for (int64_t number = 0; number < n_rows; ++number) {
    const auto overscan = span_of(counts + number * width + first, n);
    const ClippedSums sums = measured[number] ? clipped_sums(overscan, n, centre[number], limit) : ClippedSums{0, 0.0, 0.0};
    kept[number] = sums.kept;
    total[number] = sums.total;
    squares[number] = sums.squares;
  }
}

void find_lost(const int32_t* counts, int64_t width, int64_t n_rows, int64_t first, int64_t last, double saturation_adu,
               Table<int64_t, 5>& found) {
  for (int64_t number = 0; number < n_rows; ++number) {
    const Lost lost = lost_columns(span_of(counts + number * width, width), width, first, last, saturation_adu);
    if (lost.end > lost.begin) found.add({number, lost.begin, lost.end, lost.value, lost.is_fault});
  }
}

}  // namespace

extern const Kernels PERMIL_LEVEL = {add_rows,   average_doubtful, finish_rows, reduce_rows,
                                     probe_rows, row_medians,      clip_rows,   find_lost};

}  // namespace permil::isr
