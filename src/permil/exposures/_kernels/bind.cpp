// permil._kernels.exposures: sizes and ranges are checked here, once for each call, so that kernels need not.
#include "exposures/_kernels/bind.hpp"

#include <nanobind/stl/pair.h>

#include <vector>

#include "_kernels/levels.hpp"
#include "exposures/_kernels/kernels.hpp"

namespace permil::exposures {
namespace {

const Kernels& kernels() { return KERNELS_IN_USE; }

constexpr const char* OUTSIDE = "a tile lies outside the data";

bool lies_inside(int64_t start, int64_t stop, int64_t n_octets) { return 0 <= start && start < stop && stop <= n_octets; }

bool is_coding(int64_t block, int64_t pixel_bytes) { return block >= 1 && (pixel_bytes == 1 || pixel_bytes == 2 || pixel_bytes == 4); }

bool decode_tile(Array<const uint32_t, 1> words, int64_t start, int64_t stop, Array<int32_t, 1> pixels, int64_t block,
                 int64_t pixel_bytes) {
  require(lies_inside(start, stop, 4 * int64_t(words.size())), OUTSIDE);
  require(is_coding(block, pixel_bytes), "RICE_1 has no such block or pixels");
  nb::gil_scoped_release release;
  return kernels().decode_tile(words.data(), words.size(), start, stop, pixels.data(), pixels.size(), block, pixel_bytes);
}

int64_t decode_image(Array<const uint32_t, 1> words, Array<const int64_t, 1> starts, Array<const int64_t, 1> stops,
                     Array<int32_t, 2> image, std::pair<int64_t, int64_t> tile_shape, int64_t block, int64_t pixel_bytes) {
  const Tiling tiling{int64_t(image.shape(1)), int64_t(image.shape(0)), tile_shape.second, tile_shape.first, block, pixel_bytes};
  require(tiling.tile_rows > 0 && tiling.tile_columns > 0 && tiling.tile_rows <= tiling.rows && tiling.tile_columns <= tiling.columns,
          "tiles are larger than the image, or empty");
  require(is_coding(block, pixel_bytes), "RICE_1 has no such block or pixels");
  const int64_t across = (tiling.columns + tiling.tile_columns - 1) / tiling.tile_columns;
  const int64_t down = (tiling.rows + tiling.tile_rows - 1) / tiling.tile_rows;
  require(int64_t(starts.size()) == across * down && stops.size() == starts.size(), "there are not as many tiles as the image has");
  for (size_t tile = 0; tile < starts.size(); ++tile)
    require(lies_inside(starts.data()[tile], stops.data()[tile], 4 * int64_t(words.size())), OUTSIDE);
  nb::gil_scoped_release release;
  std::vector<int32_t> tile(tiling.tile_columns < tiling.columns ? tiling.tile_rows * tiling.tile_columns : 0);
  return kernels().decode_image(words.data(), words.size(), starts.data(), stops.data(), tiling, tile.data(), image.data());
}

int64_t decode_rows(nb::handle coded, Array<int32_t, 2> pixels) {
  const CodedArrays arrays = coded_arrays(coded, pixels.shape(1));
  const CodedRows rows = arrays.rows();
  require(rows.n_files == 1 && rows.n_segments == 1 && rows.n_rows == int64_t(pixels.shape(0)), "the rows are those of one segment");
  nb::gil_scoped_release release;
  return kernels().decode_rows(rows, pixels.data(), pixels.shape(1));
}

uint64_t sum_words(Array<const uint32_t, 1> words) {
  nb::gil_scoped_release release;
  return kernels().sum_words(words.data(), words.size());
}

void overrun(Array<const uint32_t, 1> words) {
  require(kernels().overrun != nullptr, "only the checked kernels notice what they read outside a row");
  kernels().overrun(words.data(), words.size());
}

}  // namespace

CodedRows CodedArrays::rows() const {
  return {octets.data(), int64_t(octets.size()), int64_t(starts.shape(0)), int64_t(starts.shape(1)), int64_t(starts.shape(2)),
          starts.data(), stops.data(),           block.data(),             pixel_bytes.data(),       zero.data()};
}

CodedArrays coded_arrays(nb::handle coded, int64_t width) {
  CodedArrays arrays{array_of<const uint8_t, 1>(coded, "octets"),     array_of<const int64_t, 3>(coded, "starts"),
                     array_of<const int64_t, 3>(coded, "stops"),      array_of<const int64_t, 2>(coded, "block"),
                     array_of<const int64_t, 2>(coded, "pixel_bytes"), array_of<const int64_t, 2>(coded, "zero")};
  const CodedRows rows = arrays.rows();
  require(rows.n_octets % 4 == 0 && reinterpret_cast<uintptr_t>(rows.octets) % 4 == 0, "the bytes are no whole words");
  for (int axis = 0; axis < 3; ++axis) require(arrays.stops.shape(axis) == arrays.starts.shape(axis), "starts and stops differ in shape");
  for (const auto* each : {&arrays.block, &arrays.pixel_bytes, &arrays.zero})
    require(int64_t(each->shape(0)) == rows.n_files && int64_t(each->shape(1)) == rows.n_segments, "there is no coding for each segment");
  for (int64_t own = 0; own < rows.n_files * rows.n_segments; ++own) {
    const bool is_coded = rows.block[own] != 0;
    require(is_coding(is_coded ? rows.block[own] : 1, rows.pixel_bytes[own]), "rows have no such block or pixels");
    for (int64_t place = own * rows.n_rows; place < (own + 1) * rows.n_rows; ++place) {
      const int64_t start = rows.starts[place], stop = is_coded ? rows.stops[place] : start + width * rows.pixel_bytes[own];
      require(lies_inside(start, stop, rows.n_octets), "a row lies outside the data");
    }
  }
  return arrays;
}

void bind(nb::module_& module) {
  module.def("decode_tile", &decode_tile, nb::arg("words").noconvert(), nb::arg("start"), nb::arg("stop"), nb::arg("pixels").noconvert(),
             nb::arg("block"), nb::arg("pixel_bytes"),
             "Decode the RICE_1 tile of bytes start to stop - 1 into pixels; return whether its bits were enough.");
  module.def("decode_image", &decode_image, nb::arg("words").noconvert(), nb::arg("starts").noconvert(), nb::arg("stops").noconvert(),
             nb::arg("image").noconvert(), nb::arg("tile_shape"), nb::arg("block"), nb::arg("pixel_bytes"),
             "Decode all tiles of an image; return the first one that does not decode, -1 if all do.");
  module.def("decode_rows", &decode_rows, nb::arg("coded"), nb::arg("pixels").noconvert(),
             "Decode the rows of one segment of one file; return the first one that does not decode, -1 if all do.");
  module.def("sum_words", &sum_words, nb::arg("words").noconvert(), "Return the sum of big-endian words.");
  module.def("overrun", &overrun, nb::arg("words").noconvert(),
             "Read behind a row of words, as a negative control of the checked kernels: they raise IndexError.");
}

}  // namespace permil::exposures
