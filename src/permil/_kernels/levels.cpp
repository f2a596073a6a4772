#include "_kernels/levels.hpp"

#include <atomic>
#include <stdexcept>

namespace permil {
namespace {

bool is_supported(Level level) {
#ifdef PERMIL_X86_LEVELS
  __builtin_cpu_init();
  if (level == Level::v3) return __builtin_cpu_supports("x86-64-v3");
  if (level == Level::v4) return __builtin_cpu_supports("x86-64-v4");
#endif
  return level == Level::checked || level == Level::baseline;
}

std::atomic<Level>& current() {
  static std::atomic<Level> level{supported_levels().back()};
  return level;
}

}  // namespace

std::string name_of(Level level) {
  constexpr const char* names[] = {"checked", "baseline", "v3", "v4"};
  return names[int(level)];
}

std::vector<Level> supported_levels() {
  std::vector<Level> supported;
  for (Level level : {Level::checked, Level::baseline, Level::v3, Level::v4})
    if (is_supported(level)) supported.push_back(level);
  return supported;
}

Level level_in_use() { return current().load(std::memory_order_relaxed); }

void use_level(const std::string& name) {
  std::string names;
  for (Level level : supported_levels()) {
    if (name == name_of(level)) {
      current().store(level, std::memory_order_relaxed);
      return;
    }
    names += (names.empty() ? "" : ", ") + name_of(level);
  }
  throw std::invalid_argument("there are no kernels " + name + "; this processor has " + names);
}

}  // namespace permil
