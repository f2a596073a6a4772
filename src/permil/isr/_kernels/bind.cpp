// permil._kernels.isr: types, sizes and ranges are checked here, once for each call, so that kernels need not.
#include <algorithm>
#include <utility>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "_kernels/levels.hpp"
#include "exposures/_kernels/bind.hpp"
#include "isr/_kernels/kernels.hpp"
#include "isr/_kernels/planes.hpp"

namespace permil::isr {

template <class Number, int N>
void Table<Number, N>::add(const Number (&row)[N]) {
  numbers.insert(numbers.end(), row, row + N);
}
template struct Table<int64_t, 3>;
template struct Table<int64_t, 5>;
template struct Table<int64_t, 6>;
template struct Table<int64_t, 7>;
template struct Table<double, 10>;

void* Scratch::take(size_t bytes) {
  constexpr size_t BLOCK = 1 << 18, ALIGNMENT = 64;
  bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (bytes > left_) {
    const size_t size = std::max(bytes, BLOCK);
    blocks_.emplace_back(new char[size + ALIGNMENT]);
    const auto address = reinterpret_cast<uintptr_t>(blocks_.back().get());
    next_ = blocks_.back().get() + (ALIGNMENT - address % ALIGNMENT) % ALIGNMENT;
    left_ = size;
  }
  char* const taken = next_;
  next_ += bytes;
  left_ -= bytes;
  return taken;
}

namespace {

using exposures::coded_arrays;

const Kernels& kernels() { return KERNELS_IN_USE; }

/// Return an array that owns copies of numbers.
template <class Number, int N>
nb::object array_of_table(const Table<Number, N>& table) {
  auto* memory = new std::vector<Number>(table.numbers);
  nb::capsule owner(memory, [](void* pointer) noexcept { delete static_cast<std::vector<Number>*>(pointer); });
  return nb::cast(nb::ndarray<nb::numpy, Number, nb::ndim<2>>(memory->data(), {memory->size() / N, size_t(N)}, owner));
}

int64_t whole(nb::handle owner, const char* name) { return nb::cast<int64_t>(owner.attr(name)); }
double number(nb::handle owner, const char* name) { return nb::cast<double>(owner.attr(name)); }

/// Segments, and the arrays that they lie in.
struct SegmentArrays {
  Array<const int64_t, 1> amplifiers, x_min, y_first, y_step, n_knots;
  Array<const bool, 1> flip_x, straight;
  Array<const float, 2> bias, factors;
  Array<const int16_t, 2> static_mask;
  Array<const double, 2> knots;
  Array<const double, 3> coefficients;
  Array<const double, 1> limit, saturation;
  Segments segments;

  explicit SegmentArrays(nb::handle group)
      : amplifiers(array_of<const int64_t, 1>(group, "amplifiers")),
        x_min(array_of<const int64_t, 1>(group, "x_min")),
        y_first(array_of<const int64_t, 1>(group, "y_first")),
        y_step(array_of<const int64_t, 1>(group, "y_step")),
        n_knots(array_of<const int64_t, 1>(group, "n_knots")),
        flip_x(array_of<const bool, 1>(group, "flip_x")),
        straight(array_of<const bool, 1>(group, "straight")),
        bias(array_of<const float, 2>(group, "bias")),
        factors(array_of<const float, 2>(group, "factors")),
        static_mask(array_of<const int16_t, 2>(group, "static_mask")),
        knots(array_of<const double, 2>(group, "knots")),
        coefficients(array_of<const double, 3>(group, "coefficients")),
        limit(array_of<const double, 1>(group, "limit")),
        saturation(array_of<const double, 1>(group, "saturation")) {
    Segments& own = segments;
    own.count = int64_t(amplifiers.size());
    own.width = whole(group, "width");
    own.n_columns = whole(group, "n_columns");
    own.first_column = whole(group, "first_column");
    own.first_overscan = whole(group, "first_overscan");
    own.last_overscan = whole(group, "last_overscan");
    own.row_mean = nb::cast<bool>(group.attr("row_mean"));
    own.amplifiers = amplifiers.data();
    own.x_min = x_min.data();
    own.y_first = y_first.data();
    own.y_step = y_step.data();
    own.flip_x = flip_x.data();
    own.bias = bias.size() > 0 ? bias.data() : nullptr;
    own.static_mask = static_mask.data();
    own.ny = int64_t(static_mask.shape(0));
    own.nx = int64_t(static_mask.shape(1));
    own.knots = knots.data();
    own.coefficients = coefficients.data();
    own.most_knots = int64_t(knots.shape(1));
    own.n_knots = n_knots.data();
    own.limit = limit.data();
    own.saturation = saturation.data();
    own.straight = straight.data();
    own.saturation_adu = number(group, "saturation_adu");
    own.crosstalk = factors.size() > 0 ? factors.data() : nullptr;
    check();
  }

  /// Raise ValueError unless raw rows of these numbers lie in the detector.
  void require_rows(int64_t first, int64_t last) const {
    for (int64_t s = 0; s < segments.count; ++s)
      for (int64_t row : {first, last - 1}) {
        const int64_t y = segments.y_first[s] + segments.y_step[s] * row;
        require(row >= 0 && y >= 0 && y < segments.ny, "a raw row lies outside the detector");
      }
  }
  void require_rows(const Array<const int64_t, 1>& rows) const {
    for (size_t index = 0; index < rows.size(); ++index) require_rows(rows.data()[index], rows.data()[index] + 1);
  }

 private:
  void check() const {
    const Segments& own = segments;
    const size_t count = size_t(own.count);
    require(count > 0, "there are no segments");
    for (const auto* each : {&x_min, &y_first, &y_step, &n_knots}) require(each->size() == count, "segments differ in number");
    for (const auto* each : {&flip_x, &straight}) require(each->size() == count, "segments differ in number");
    for (const auto* each : {&limit, &saturation}) require(each->size() == count, "segments differ in number");
    require(has_shape(knots, {own.count, own.most_knots}) && has_shape(coefficients, {own.count, own.most_knots, 4}),
            "linearity curves differ in number");
    require(own.width >= 4 && own.n_columns > 0 && own.first_column >= 0 && own.first_column + own.n_columns <= own.width &&
                own.first_overscan >= 0 && own.first_overscan < own.last_overscan && own.last_overscan <= own.width,
            "columns lie outside the raw row");
    require(!own.bias || has_shape(bias, {own.ny, own.nx}), "the superbias has not the shape of the detector");
    require(!own.crosstalk || has_shape(factors, {own.count, own.count}), "the crosstalk correction is not that of the segments");
    for (int64_t s = 0; s < own.count; ++s) {
      require(own.x_min[s] >= 0 && own.x_min[s] + own.n_columns <= own.nx, "a segment lies outside the detector");
      require(own.n_knots[s] >= 1 && own.n_knots[s] <= own.most_knots, "a linearity curve has no knots");
      require(own.amplifiers[s] >= 0 && (own.y_step[s] == 1 || own.y_step[s] == -1), "a segment lies outside the detector");
    }
  }
};

/// Results of a stack, and the arrays that they lie in.
struct AverageArrays {
  Array<float, 2> image, variance, squares;
  Array<int32_t, 2> mask;
  Array<uint16_t, 2> kept;
  Array<uint8_t, 2> rejected;

  AverageArrays(nb::handle out, const Array<float, 2>& chi_square_sums)
      : image(array_of<float, 2>(out, "image")),
        variance(array_of<float, 2>(out, "variance")),
        squares(chi_square_sums),
        mask(array_of<int32_t, 2>(out, "mask")),
        kept(array_of<uint16_t, 2>(out, "kept")),
        rejected(array_of<uint8_t, 2>(out, "rejected")) {
    const int64_t ny = int64_t(image.shape(0)), nx = int64_t(image.shape(1));
    require(has_shape(variance, {ny, nx}) && has_shape(squares, {ny, nx}) && has_shape(mask, {ny, nx}) && has_shape(kept, {ny, nx}) &&
                has_shape(rejected, {ny, nx}),
            "the arrays of a stack differ in shape");
  }
  Averages averages() const {
    return {image.data(), variance.data(), squares.data(), mask.data(), kept.data(), rejected.data(), int64_t(image.shape(1))};
  }
};

NoiseTest noise_test(nb::handle test) {
  const NoiseTest own{whole(test, "n_frames"), number(test, "mean_light"), number(test, "noise_variance"), number(test, "threshold"),
                      number(test, "photon_variance")};
  require(own.n_frames > 0, "there are no frames");
  return own;
}

Placement placement(nb::handle place, int64_t n_rows, const Array<float, 2>& image) {
  const Placement own{whole(place, "x_min"), whole(place, "n_columns"), nb::cast<bool>(place.attr("flip_x")), whole(place, "y_first"),
                      whole(place, "y_step")};
  const int64_t last = own.y_first + own.y_step * (n_rows - 1);
  require(own.x_min >= 0 && own.n_columns > 0 && own.x_min + own.n_columns <= int64_t(image.shape(1)) && n_rows > 0 && own.y_first >= 0 &&
              own.y_first < int64_t(image.shape(0)) && last >= 0 && last < int64_t(image.shape(0)),
          "an amplifier lies outside the image");
  return own;
}

nb::tuple add_rows(nb::handle coded, Array<const int64_t, 1> rows, int64_t first_index, nb::handle group, nb::handle frames, bool measure,
                   nb::handle spread, Array<const double, 1> noise_variance, nb::handle test, nb::handle out, Array<float, 2> squares) {
  const SegmentArrays segment_arrays(group);
  const Segments& own = segment_arrays.segments;
  const auto coded_rows = coded_arrays(coded, own.width);
  const CodedRows files = coded_rows.rows();
  const auto light = array_of<const float, 1>(frames, "light");
  const auto gain = array_of<const double, 2>(frames, "gain"), clip = array_of<const double, 2>(frames, "clip");
  const auto dead = array_of<const bool, 2>(frames, "dead");
  const auto level = array_of<double, 3>(frames, "level"), level_squares = array_of<double, 3>(frames, "squares");
  const auto freedom = array_of<int64_t, 3>(frames, "freedom");
  const int64_t n_rows = int64_t(rows.size()), n_levels = int64_t(level.shape(2));
  require(files.n_rows == n_rows && files.n_segments == own.count, "coded rows are not those of the segments");
  require(int64_t(light.size()) == files.n_files && has_shape(gain, {files.n_files, own.count}) &&
              has_shape(clip, {files.n_files, own.count}) && has_shape(dead, {files.n_files, own.count}) &&
              has_shape(level, {files.n_files, own.count, n_levels}) && has_shape(level_squares, {files.n_files, own.count, n_levels}) &&
              has_shape(freedom, {files.n_files, own.count, n_levels}),
          "frames differ in number");
  require(first_index >= 0 && first_index + n_rows <= n_levels, "rows lie outside the levels");
  segment_arrays.require_rows(rows);
  const AverageArrays averages(out, squares);
  require(has_shape(averages.image, {own.ny, own.nx}), "the arrays of the stack have not the shape of the detector");
  for (int64_t s = 0; s < own.count; ++s) require(own.amplifiers[s] < int64_t(noise_variance.size()), "there is no noise for an amplifier");
  const auto first = array_of<const int64_t, 3>(spread, "first");
  const auto start = array_of<const int64_t, 1>(spread, "start"), stop = array_of<const int64_t, 1>(spread, "stop");
  require(first.size() == 0 || has_shape(first, {files.n_files, own.count, n_rows + 1}), "saturated pixels are not those of the rows");
  require(start.size() == stop.size(), "saturated pixels begin and do not end");
  for (size_t place = 0; place < first.size(); ++place)
    require(first.data()[place] >= 0 && first.data()[place] <= int64_t(start.size()), "saturated pixels are not those of the rows");
  for (size_t entry = 0; entry < start.size(); ++entry)
    require(start.data()[entry] >= 0 && stop.data()[entry] <= own.n_columns, "saturated pixels lie outside their row");
  const Frames of_files{light.data(), gain.data(), clip.data(), dead.data(), level.data(), level_squares.data(), freedom.data(), n_levels};
  const Spread of_pixels{first.size() > 0 ? first.data() : nullptr, start.data(), stop.data()};
  const NoiseTest own_test = noise_test(test);
  StackedRows found;
  {
    nb::gil_scoped_release release;
    Scratch scratch;
    kernels().add_rows(files, rows.data(), n_rows, first_index, own, of_files, measure, of_pixels, noise_variance.data(), own_test,
                       averages.averages(), scratch, found);
  }
  return nb::make_tuple(found.damaged_file, found.damaged_segment, array_of_table(found.runs), array_of_table(found.lost),
                        array_of_table(found.doubtful.places), array_of_table(found.doubtful.sums));
}

void average_doubtful(Array<const int64_t, 2> places, Array<const double, 2> sums, Array<const double, 1> noise_variance, nb::handle test,
                      nb::handle out, Array<float, 2> squares) {
  const AverageArrays averages(out, squares);
  const int64_t n = int64_t(places.shape(0));
  require(has_shape(places, {n, 3}) && has_shape(sums, {n, 10}), "pixels that were set aside differ in number");
  for (int64_t entry = 0; entry < n; ++entry) {
    const int64_t* place = places.data() + 3 * entry;
    require(place[0] >= 0 && place[0] < int64_t(noise_variance.size()) && place[1] >= 0 && place[1] < int64_t(squares.shape(0)) &&
                place[2] >= 0 && place[2] < int64_t(squares.shape(1)),
            "a pixel lies outside the stack");
  }
  const NoiseTest own_test = noise_test(test);
  nb::gil_scoped_release release;
  kernels().average_doubtful(places.data(), sums.data(), n, noise_variance.data(), own_test, averages.averages());
}

void finish_rows(nb::handle test, nb::handle place, nb::handle out, Array<float, 2> squares, nb::handle fit) {
  const AverageArrays averages(out, squares);
  const auto chi_square = array_of<double, 1>(fit, "chi_square");
  const auto freedom = array_of<int64_t, 1>(fit, "freedom");
  require(chi_square.size() == freedom.size(), "the rows of the fit differ in number");
  const int64_t n_rows = int64_t(chi_square.size());
  const Placement own = placement(place, n_rows, averages.image);
  const NoiseTest own_test = noise_test(test);
  nb::gil_scoped_release release;
  Scratch scratch;
  kernels().finish_rows(n_rows, own_test, own, averages.averages(), scratch, chi_square.data(), freedom.data());
}

/// Reduce rows; `levels` has no elements where the level of a row is the median of its overscan.
nb::tuple reduce(const Source& source, int64_t first, int64_t last, const Segments& own, Array<const double, 1> gain,
                 Array<const bool, 1> dead, Array<const double, 2> levels, const Target& target) {
  require(int64_t(gain.size()) == own.count && (dead.size() == 0 || int64_t(dead.size()) == own.count), "gains differ in number");
  require(levels.size() == 0 || has_shape(levels, {own.count, last - first}), "levels are not those of the rows");
  const bool is_known = levels.size() > 0;
  const Frame frame{gain.data(), dead.size() > 0 ? dead.data() : nullptr, nullptr, is_known ? LevelFrom::known : LevelFrom::median};
  ReducedRows found;
  {
    nb::gil_scoped_release release;
    Scratch scratch;
    kernels().reduce_rows(source, first, last, own, frame, is_known ? levels.data() : nullptr, target, scratch, found);
  }
  return nb::make_tuple(found.damaged_segment, found.is_beyond, array_of_table(found.lost));
}

/// Return segments in memory; each holds at least the rows.
std::vector<const int32_t*> pointers_of(const std::vector<Array<const int32_t, 2>>& counts, int64_t n_rows, const Segments& own) {
  require(int64_t(counts.size()) == own.count, "segments differ in number");
  std::vector<const int32_t*> pointers;
  for (const auto& each : counts) {
    require(int64_t(each.shape(0)) >= n_rows && int64_t(each.shape(1)) == own.width, "a segment has not the size of the camera's");
    pointers.push_back(each.data());
  }
  return pointers;
}

nb::tuple reduce_coded(nb::handle coded, std::pair<int64_t, int64_t> rows, nb::handle group, Array<const double, 1> gain,
                       Array<const bool, 1> dead, Array<const double, 2> levels, Array<const int64_t, 1> first_y, Array<float, 2> image,
                       Array<int16_t, 2> mask) {
  const auto [first, last] = rows;
  const SegmentArrays arrays(group);
  const Segments& own = arrays.segments;
  const auto coded_rows = coded_arrays(coded, own.width);
  const CodedRows file = coded_rows.rows();
  require(first < last, "there are no rows");
  require(file.n_files == 1 && file.n_segments == own.count && file.n_rows >= last, "coded rows are not those of the segments");
  arrays.require_rows(first, last);
  require(int64_t(first_y.size()) == own.count && int64_t(image.shape(1)) == own.nx &&
              has_shape(mask, {int64_t(image.shape(0)), own.nx}),
          "image and mask have not the width of the detector");
  for (int64_t s = 0; s < own.count; ++s)
    for (int64_t index : {int64_t(0), last - first - 1}) {
      const int64_t y = first_y.data()[s] + own.y_step[s] * index;
      require(y >= 0 && y < int64_t(image.shape(0)), "rows lie outside the image");
    }
  const Target target{image.data(), mask.data(), own.nx, first_y.data(), own.x_min, own.y_step, own.flip_x};
  return reduce({&file, nullptr}, first, last, own, gain, dead, levels, target);
}

nb::tuple reduce_segments(std::vector<Array<const int32_t, 2>> counts, std::pair<int64_t, int64_t> rows, nb::handle group,
                          Array<const double, 1> gain, Array<const double, 2> levels, Array<float, 2> image, Array<int16_t, 2> mask) {
  const auto [first, last] = rows;
  const SegmentArrays arrays(group);
  const Segments& own = arrays.segments;
  require(first < last, "there are no rows");
  arrays.require_rows(first, last);
  require(has_shape(image, {own.ny, own.nx}) && has_shape(mask, {own.ny, own.nx}), "image and mask have not the shape of the detector");
  const std::vector<const int32_t*> pointers = pointers_of(counts, last - first, own);
  std::vector<int64_t> first_y;
  for (int64_t s = 0; s < own.count; ++s) first_y.push_back(own.y_first[s] + own.y_step[s] * first);
  const Target target{image.data(), mask.data(), own.nx, first_y.data(), own.x_min, own.y_step, own.flip_x};
  return reduce({nullptr, pointers.data()}, first, last, own, gain, Array<const bool, 1>(), levels, target);
}

nb::tuple reduce_first_segment(std::vector<Array<const int32_t, 2>> counts, std::pair<int64_t, int64_t> rows, nb::handle group,
                               Array<const double, 1> gain, Array<const double, 2> levels, Array<float, 2> image, Array<int16_t, 2> mask) {
  const auto [first, last] = rows;
  const SegmentArrays arrays(group);
  const Segments& own = arrays.segments;
  require(first < last, "there are no rows");
  arrays.require_rows(first, last);
  require(has_shape(image, {last - first, own.n_columns}) && has_shape(mask, {last - first, own.n_columns}),
          "image and mask have not the size of the rows");
  const std::vector<const int32_t*> pointers = pointers_of(counts, last - first, own);
  std::vector<int64_t> first_y(own.count, -1);
  first_y[0] = 0;
  const int64_t x_min = 0, y_step = 1;
  const bool flip_x = false;
  const Target target{image.data(), mask.data(), own.n_columns, first_y.data(), &x_min, &y_step, &flip_x};
  return reduce({nullptr, pointers.data()}, first, last, own, gain, Array<const bool, 1>(), levels, target);
}

int64_t probe_rows(nb::handle coded, Array<const int64_t, 1> rows, nb::handle group, Array<const double, 1> gain, nb::handle steps,
                   nb::handle samples) {
  const SegmentArrays arrays(group);
  const Segments& own = arrays.segments;
  const auto coded_rows = coded_arrays(coded, own.width);
  const CodedRows file = coded_rows.rows();
  require(file.n_files == 1 && file.n_segments == own.count && file.n_rows == int64_t(rows.size()), "coded rows are not those of the segments");
  require(int64_t(gain.size()) == own.count, "gains differ in number");
  arrays.require_rows(rows);
  const auto overscans = array_of<int32_t, 3>(samples, "overscans");
  const auto n_overscans = array_of<int64_t, 1>(samples, "n_overscans"), n_light = array_of<int64_t, 1>(samples, "n_light");
  const auto n_usable = array_of<int64_t, 1>(samples, "n_usable");
  const auto lowest = array_of<int32_t, 1>(samples, "lowest"), highest = array_of<int32_t, 1>(samples, "highest");
  const auto light = array_of<float, 2>(samples, "light");
  const auto lost = array_of<bool, 2>(samples, "lost");
  const Samples own_samples{whole(steps, "light_rows"),
                            whole(steps, "light_columns"),
                            whole(steps, "overscan_rows"),
                            overscans.data(),
                            int64_t(overscans.shape(1)),
                            int64_t(lost.shape(1)),
                            int64_t(light.shape(1)),
                            n_overscans.data(),
                            n_light.data(),
                            n_usable.data(),
                            lowest.data(),
                            highest.data(),
                            light.data(),
                            lost.data()};
  require(own_samples.light_rows > 0 && own_samples.light_columns > 0 && own_samples.overscan_rows > 0, "steps are not positive");
  require(has_shape(overscans, {own.count, own_samples.most_overscans, own.last_overscan - own.first_overscan}) &&
              has_shape(light, {own.count, own_samples.most_light}) && has_shape(lost, {own.count, own_samples.n_rows}),
          "samples are not those of the segments");
  for (const auto* each : {&n_overscans, &n_light, &n_usable}) require(int64_t(each->size()) == own.count, "segments differ in number");
  for (const auto* each : {&lowest, &highest}) require(int64_t(each->size()) == own.count, "segments differ in number");
  int64_t more_overscans = 0, more_light = 0;
  for (size_t index = 0; index < rows.size(); ++index) {
    require(rows.data()[index] < own_samples.n_rows, "a row lies outside the samples");
    more_overscans += rows.data()[index] % own_samples.overscan_rows == 0;
    more_light += rows.data()[index] % own_samples.light_rows == 0;
  }
  more_light *= (own.n_columns + own_samples.light_columns - 1) / own_samples.light_columns;
  for (int64_t s = 0; s < own.count; ++s)
    require(n_overscans.data()[s] >= 0 && n_overscans.data()[s] + more_overscans <= own_samples.most_overscans && n_light.data()[s] >= 0 &&
                n_light.data()[s] + more_light <= own_samples.most_light,
            "the array of samples is too small");
  nb::gil_scoped_release release;
  Scratch scratch;
  return kernels().probe_rows(file, rows.data(), int64_t(rows.size()), own, gain.data(), own_samples, scratch);
}

/// Raise ValueError unless columns of measured rows lie in raw rows.
void require_columns(const Array<const int32_t, 2>& counts, int64_t first, int64_t last, int64_t n_rows) {
  require(first >= 0 && first < last && last <= int64_t(counts.shape(1)) && n_rows <= int64_t(counts.shape(0)),
          "columns lie outside the raw row");
}

int64_t row_medians(Array<const int32_t, 2> counts, std::pair<int64_t, int64_t> columns, Array<const bool, 1> measured, int64_t step,
                    Array<double, 1> medians, Array<double, 1> deviations) {
  const int64_t n_rows = int64_t(measured.size());
  require_columns(counts, columns.first, columns.second, n_rows);
  require(step > 0 && int64_t(medians.size()) == n_rows && int64_t(deviations.size()) * step >= n_rows, "the arrays of medians and deviations are too small");
  nb::gil_scoped_release release;
  Scratch scratch;
  return kernels().row_medians(counts.data(), int64_t(counts.shape(1)), columns.first, columns.second, measured.data(), n_rows, step,
                               medians.data(), deviations.data(), scratch);
}

void clip_rows(Array<const int32_t, 2> counts, std::pair<int64_t, int64_t> columns, Array<const bool, 1> measured,
               Array<const double, 1> centre, double limit, Array<int64_t, 1> kept, Array<double, 1> total, Array<double, 1> squares) {
  const int64_t n_rows = int64_t(measured.size());
  require_columns(counts, columns.first, columns.second, n_rows);
  for (size_t size : {centre.size(), kept.size(), total.size(), squares.size()}) require(int64_t(size) == n_rows, "rows differ in number");
  nb::gil_scoped_release release;
  kernels().clip_rows(counts.data(), int64_t(counts.shape(1)), columns.first, columns.second, measured.data(), n_rows, centre.data(), limit,
                      kept.data(), total.data(), squares.data());
}

nb::object find_lost(Array<const int32_t, 2> counts, int64_t n_rows, std::pair<int64_t, int64_t> columns, double saturation_adu) {
  require_columns(counts, columns.first, columns.second, n_rows);
  require(counts.shape(1) >= 4, "columns lie outside the raw row");
  Table<int64_t, 5> lost;
  {
    nb::gil_scoped_release release;
    kernels().find_lost(counts.data(), int64_t(counts.shape(1)), n_rows, columns.first, columns.second, saturation_adu, lost);
  }
  return array_of_table(lost);
}

}  // namespace

void bind(nb::module_& module) {
  using nb::arg;
  nb::dict planes;
  planes["BAD"] = BAD;
  planes["SAT"] = SAT;
  planes["NO_DATA"] = NO_DATA;
  planes["EDGE"] = EDGE;
  planes["MIDLINE"] = MIDLINE;
  planes["REJECTED"] = REJECTED;
  planes["SUSPECT"] = SUSPECT;
  module.attr("PLANES") = planes;
  module.def("add_rows", &add_rows, arg("coded"), arg("rows").noconvert(), arg("first_index"), arg("group"), arg("frames"), arg("measure"),
             arg("spread"), arg("noise_variance").noconvert(), arg("test"), arg("out"), arg("squares").noconvert(),
             "Reduce and average rows of all files; return damaged file and segment, saturated runs, lost runs, and pixels set aside.");
  module.def("average_doubtful", &average_doubtful, arg("places").noconvert(), arg("sums").noconvert(), arg("noise_variance").noconvert(),
             arg("test"), arg("out"), arg("squares").noconvert(), "Test pixels that were set aside, and average what is kept.");
  module.def("finish_rows", &finish_rows, arg("test"), arg("place"), arg("out"), arg("squares").noconvert(), arg("fit"),
             "Complete the variance of an amplifier, and fill chi-square and degrees of freedom by row.");
  module.def("reduce_coded", &reduce_coded, arg("coded"), arg("rows"), arg("group"), arg("gain").noconvert(), arg("dead").noconvert(),
             arg("levels").noconvert(), arg("first_y").noconvert(), arg("image").noconvert(), arg("mask").noconvert(),
             "Reduce coded rows of a file; return the first damaged segment (-1 for none), whether pixels may be saturated, lost runs.");
  module.def("reduce_segments", &reduce_segments, arg("counts"), arg("rows"), arg("group"), arg("gain").noconvert(),
             arg("levels").noconvert(), arg("image").noconvert(), arg("mask").noconvert(),
             "Reduce rows of segments in memory into the image of the detector; returns what reduce_coded does.");
  module.def("reduce_first_segment", &reduce_first_segment, arg("counts"), arg("rows"), arg("group"), arg("gain").noconvert(),
             arg("levels").noconvert(), arg("image").noconvert(), arg("mask").noconvert(),
             "Reduce rows of the first segment of a group, in the order of readout; returns what reduce_coded does.");
  module.def("probe_rows", &probe_rows, arg("coded"), arg("rows").noconvert(), arg("group"), arg("gain").noconvert(), arg("steps"),
             arg("samples"), "Fill samples of rows of a file; return the first damaged segment, -1 for none.");
  module.def("row_medians", &row_medians, arg("counts").noconvert(), arg("columns"), arg("measured").noconvert(), arg("step"),
             arg("medians").noconvert(), arg("deviations").noconvert(), "Fill medians of rows and deviations; return how many of these.");
  module.def("clip_rows", &clip_rows, arg("counts").noconvert(), arg("columns"), arg("measured").noconvert(), arg("centre").noconvert(),
             arg("limit"), arg("kept").noconvert(), arg("total").noconvert(), arg("squares").noconvert(),
             "Fill number, sum of deviations and of their squares of the counts within a limit of a centre, by row.");
  module.def("find_lost", &find_lost, arg("counts").noconvert(), arg("n_rows"), arg("columns"), arg("saturation_adu"),
             "Return what is lost of the first rows of a raw segment.");
}

}  // namespace permil::isr
