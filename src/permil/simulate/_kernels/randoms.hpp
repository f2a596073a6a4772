// Standard normals: ziggurat on xoshiro256++; see permil.simulate.randoms for the sources.
#pragma once
#include <cmath>

#include "_kernels/span.hpp"
#include "simulate/_kernels/structs.hpp"

namespace permil::simulate {
namespace {

/// A generator of normals, whose state comes from an array and goes back there.
class Normals {
 public:
  Normals(const Layers& layers, const uint64_t* state) : layers_(layers), state_{state[0], state[1], state[2], state[3]} {}
  void save(uint64_t* state) const {
    for (int word = 0; word < 4; ++word) state[word] = state_[word];
  }
  double next() {
    const uint64_t word = next_word();
    const int64_t layer = word & 255;
    const double value = value_of(word, layer);
    return std::fabs(value) < layers_.edges[layer + 1] ? value : outside_layer(layer, value);
  }

 private:
  static uint64_t rotate_left(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

  uint64_t next_word() {
    const uint64_t result = rotate_left(state_[0] + state_[3], 23) + state_[0], shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return result;
  }

  /// Return a number in (0, 1).
  double uniform() { return (double(next_word() >> 11) + 0.5) * 0x1p-53; }

  double value_of(uint64_t word, int64_t layer) const { return double(int64_t(word) >> 9) * 0x1p-54 * layers_.edges[layer]; }

  /// Decide about a value that lies outside the rectangle of its layer: one draw in a hundred.
  double outside_layer(int64_t layer, double value) {
    while (true) {
      if (layer == 0) return value > 0.0 ? tail() : -tail();
      const double low = layers_.densities[layer], height = low + uniform() * (layers_.densities[layer + 1] - low);
      if (height < std::exp(-0.5 * value * value)) return value;
      const uint64_t word = next_word();
      layer = word & 255;
      value = value_of(word, layer);
      if (std::fabs(value) < layers_.edges[layer + 1]) return value;
    }
  }

  /// Return a normal beyond the last layer.
  double tail() {
    const double edge = layers_.edges[1];
    while (true) {
      const double beyond = -std::log(uniform()) / edge;
      if (-2.0 * std::log(uniform()) > beyond * beyond) return edge + beyond;
    }
  }

  const Layers& layers_;
  uint64_t state_[4];
};

}  // namespace
}  // namespace permil::simulate
