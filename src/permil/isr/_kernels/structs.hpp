// Arguments and results of the kernels of this package. Arrays are in row-major order; [a, b] names their axes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exposures/_kernels/coded_rows.hpp"

namespace permil::isr {

using exposures::CodedRows;

/// Segments of one size and their calibration; see permil.isr.calibration.calibration.SegmentGroup.
struct Segments {
  int64_t count, width, n_columns, first_column, first_overscan, last_overscan;
  bool row_mean;
  const int64_t *amplifiers, *x_min, *y_first, *y_step;  // [segment]
  const bool* flip_x;                                    // [segment]
  const float* bias;                                     // [y, x] of the detector; null without superbias
  const int16_t* static_mask;                            // [y, x]
  int64_t ny, nx;
  const double *knots, *coefficients;  // [segment, knot], [segment, knot, power]
  int64_t most_knots;
  const int64_t* n_knots;             // [segment]
  const double *limit, *saturation;   // [segment]
  const bool* straight;               // [segment]
  double saturation_adu;
  const float* crosstalk;  // correction [victim, source]; null without crosstalk
};

/// Source of the level of a row: known, the median of the overscan, or the method of the overscan options.
enum class LevelFrom { known, median, overscan };

/// Values of one frame, [segment].
struct Frame {
  const double* gain;  // electrons per adu
  const bool* dead;    // channels without data; null for none
  const double* clip;  // deviation from which a count of the overscan is an outlier; for LevelFrom::overscan
  LevelFrom level;
};

/// Active columns of a row without a measurement; see permil.isr.overscan.
struct Lost {
  int64_t begin, end, value;
  bool is_fault;
};

/// Overscan of a row: its level, the sum of squared deviations from its mean, and their degrees of freedom.
struct Overscan {
  double level, squares;
  int64_t freedom;
};

/// One raw row of all segments on its way to electrons.
struct Row {
  const int32_t** counts;       // [segment][column of the raw row]
  int32_t* decoded;             // [segment, column of the raw row], where counts of coded rows lie
  float* bias;                  // [segment, column], in the order of readout
  int16_t* static_mask;         // [segment, column]
  float *measured, *corrected;  // [segment, column], adu over level and superbias, without and with crosstalk corrected
  Lost* lost;                   // [segment]
  Overscan* overscan;           // [segment]; the level before is the guess for the next one
  float* signal;                // [column], electrons of the segment whose turn it is; NaN where nothing was measured
  int16_t* planes;              // [column], its mask
  bool is_beyond;               // whether pixels may be saturated or beyond the linearity curve
  bool is_whole;                // whether its mask is the static one
};

/// Where raw rows come from: coded rows of a file, or segments in memory, [segment][row, width].
struct Source {
  const CodedRows* coded;
  const int32_t* const* segments;
};

/// Where reduced rows go.
struct Target {
  float* image;     // [y, x]
  int16_t* mask;    // [y, x]
  int64_t nx;
  const int64_t* first_y;          // [segment], row of the image of the first raw row; -1 where a segment is not wanted
  const int64_t *x_min, *y_step;   // [segment]
  const bool* flip_x;              // [segment]
};

/// Sums over the frames of a row. `signal`, `light`, `squares`: sums of d, q and q (x - mean)^2 over the frames without the extremes;
/// `high`, `second`, `low`: extremes x; `high_light`, `second_light`, `low_light`: q of their frames, 0 where there is none; `measured`:
/// number of frames with a measurement; `planes`: union of the masks.
struct Sums {
  double* signal;
  float *light, *squares, *high, *second, *low, *high_light, *second_light, *low_light;
  uint16_t* measured;
  int16_t* planes;
};

/// Arrays that differ between the files of a stack; see permil.isr.streamed_stack.FrameRows.
struct Frames {
  const float* light;                // [file]
  const double *gain, *clip;         // [file, segment]
  const bool* dead;                  // [file, segment]
  double *level, *squares;           // [file, segment, row]
  int64_t* freedom;                  // [file, segment, row]
  int64_t n_rows;
};

/// Pixels beside saturated ones; see permil.isr.streamed_stack.Spread. `first` is null where there are none.
struct Spread {
  const int64_t *first, *start, *stop;
};

/// Parameters of the test of the extremes; see permil.isr.stack.NoiseTest.
struct NoiseTest {
  int64_t n_frames;
  double mean_light, noise_variance, threshold, photon_variance;
};

/// Where the active pixels of a segment lie in an image: row r in image row y_first + y_step r.
struct Placement {
  int64_t x_min, n_columns;
  bool flip_x;
  int64_t y_first, y_step;
};

/// Results of a stack, [y, x]; see permil.isr.stack.Averages.
struct Averages {
  float *image, *variance, *squares;
  int32_t* mask;
  uint16_t* kept;
  uint8_t* rejected;
  int64_t nx;
};

/// Rows of numbers that are appended one by one.
template <class Number, int N>
struct Table {
  std::vector<Number> numbers;
  void add(const Number (&row)[N]);
};
extern template struct Table<int64_t, 3>;
extern template struct Table<int64_t, 5>;
extern template struct Table<int64_t, 6>;
extern template struct Table<int64_t, 7>;
extern template struct Table<double, 10>;

/// Pixels whose extremes are tested when the noise is known; see permil.isr.stack.Doubtful.
struct Doubtful {
  Table<int64_t, 3> places;
  Table<double, 10> sums;
};

/// Results of stacking rows; see permil.isr.streamed_stack.SumsOfRows.
struct StackedRows {
  int64_t damaged_file = -1, damaged_segment = -1;
  Table<int64_t, 5> runs;
  Table<int64_t, 7> lost;
  Doubtful doubtful;
};

/// Results of reducing rows.
struct ReducedRows {
  int64_t damaged_segment = -1;
  bool is_beyond = false;
  Table<int64_t, 6> lost;  // segment, row, first column, that behind the last, value, whether the file is at fault
};

/// A sample of rows of one file; see permil.isr.streamed_stack.RowSamples.
struct Samples {
  int64_t light_rows, light_columns, overscan_rows;
  int32_t* overscans;  // [segment, sample, overscan column]
  int64_t most_overscans, n_rows, most_light;
  int64_t *n_overscans, *n_light, *n_usable;  // [segment]
  int32_t *lowest, *highest;                  // [segment]
  float* light;                               // [segment, sample]
  bool* lost;                                 // [segment, row]
};

/// Memory of one call of a kernel, released with this object.
class Scratch {
 public:
  void* take(size_t bytes);

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t left_ = 0;
  char* next_ = nullptr;
};

}  // namespace permil::isr
