// Entry points of the kernels of this package, once for each level of instructions.
#pragma once
#include "isr/_kernels/structs.hpp"

namespace permil::isr {

struct Kernels {
  /// Reduce and average rows of all files; each row goes through all files before the next one, while its sums are in the cache.
  void (*add_rows)(const CodedRows&, const int64_t* rows, int64_t n_rows, int64_t first_index, const Segments&, const Frames&, bool measure,
                   const Spread&, const double* noise_variance, const NoiseTest&, const Averages&, Scratch&, StackedRows&);
  /// Test n pixels that were set aside, and store their averages in the result.
  void (*average_doubtful)(const int64_t* places, const double* sums, int64_t n, const double* noise_variance, const NoiseTest&,
                           const Averages&);
  /// Complete the rows of an amplifier: variance, chi-square and degrees of freedom by row.
  void (*finish_rows)(int64_t n_rows, const NoiseTest&, const Placement&, const Averages&, Scratch&, double* chi_square, int64_t* freedom);
  /// Reduce raw rows `first` to `last - 1` into an image. `levels` [segment, row] is null where levels are the medians of the overscan.
  void (*reduce_rows)(const Source&, int64_t first, int64_t last, const Segments&, const Frame&, const double* levels, const Target&,
                      Scratch&, ReducedRows&);
  /// Sample rows of one file; return the first segment with a row that cannot be decoded, -1 without any.
  int64_t (*probe_rows)(const CodedRows&, const int64_t* rows, int64_t n_rows, const Segments&, const double* gain, const Samples&, Scratch&);
  /// Fill the median of each measured row of an overscan, and every `step` rows its median absolute deviation; return how many of these.
  int64_t (*row_medians)(const int32_t* counts, int64_t width, int64_t first, int64_t last, const bool* measured, int64_t n_rows,
                         int64_t step, double* medians, double* deviations, Scratch&);
  /// Fill the clipped sums of each measured row of an overscan about its median.
  void (*clip_rows)(const int32_t* counts, int64_t width, int64_t first, int64_t last, const bool* measured, int64_t n_rows,
                    const double* centre, double limit, int64_t* kept, double* total, double* squares);
  /// Find the pixels of rows of a raw segment that are lost.
  void (*find_lost)(const int32_t* counts, int64_t width, int64_t n_rows, int64_t first, int64_t last, double saturation_adu,
                    Table<int64_t, 5>& lost);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::isr
