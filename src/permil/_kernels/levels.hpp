// Levels of instructions for which the kernels are compiled, and the choice between them.
#pragma once
#include <string>
#include <vector>

namespace permil {

enum class Level { checked, baseline, v3, v4 };

/// Return the name of a level.
std::string name_of(Level level);

/// Return the levels that this build and the processor have, the fastest last.
std::vector<Level> supported_levels();

/// Return the level whose kernels are used: the fastest one, unless another was chosen.
Level level_in_use();

/// Use the kernels of a level from now on; std::invalid_argument if the processor does not have it.
void use_level(const std::string& name);

/// Return those kernels of a package that are used; the last two are null in builds without these levels.
template <class Kernels>
const Kernels& kernels_in_use(const Kernels& checked, const Kernels& baseline, const Kernels* v3, const Kernels* v4) {
  switch (level_in_use()) {
    case Level::checked: return checked;
    case Level::v3: return *v3;
    case Level::v4: return *v4;
    default: return baseline;
  }
}

// The kernels that are used, among those of the package in whose namespace this stands.
#ifdef PERMIL_X86_LEVELS
#define KERNELS_IN_USE kernels_in_use(checked, baseline, &v3, &v4)
#else
#define KERNELS_IN_USE kernels_in_use<Kernels>(checked, baseline, nullptr, nullptr)
#endif

}  // namespace permil
