// permil._kernels: compiled kernels, one submodule for each package.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "_kernels/levels.hpp"

namespace nb = nanobind;

namespace permil::beam {
void bind(nb::module_& module);
}
namespace permil::compare {
void bind(nb::module_& module);
}
namespace permil::exposures {
void bind(nb::module_& module);
}
namespace permil::flat {
void bind(nb::module_& module);
}
namespace permil::joint {
void bind(nb::module_& module);
}
namespace permil::isr {
void bind(nb::module_& module);
}
namespace permil::simulate {
void bind(nb::module_& module);
}
namespace permil::spots {
void bind(nb::module_& module);
}

NB_MODULE(_kernels, module) {
  module.doc() = "Compiled kernels, one submodule for each package.";
  module.def("levels", [] {
    std::vector<std::string> names;
    for (permil::Level level : permil::supported_levels()) names.push_back(permil::name_of(level));
    return names;
  }, "Return the levels of instructions that this processor has, the fastest last.");
  module.def("use_level", &permil::use_level, nb::arg("name"), "Use the kernels of a level from now on, in this process.");
  auto beam = module.def_submodule("beam", "Splines of the beam on images.");
  permil::beam::bind(beam);
  auto compare = module.def_submodule("compare", "Answers of stars to maps, annuli of tree rings.");
  permil::compare::bind(compare);
  auto exposures = module.def_submodule("exposures", "Raw bytes: RICE tiles, rows of files, checksums.");
  permil::exposures::bind(exposures);
  auto flat = module.def_submodule("flat", "Pointings, their combination, light and sums of pixels.");
  permil::flat::bind(flat);
  auto joint = module.def_submodule("joint", "Sums over exposures and super-pixels of the joint solution.");
  permil::joint::bind(joint);
  auto isr = module.def_submodule("isr", "Counts to electrons, stacks.");
  permil::isr::bind(isr);
  auto simulate = module.def_submodule("simulate", "Light, charge and raw counts of the simulators.");
  permil::simulate::bind(simulate);
  auto spots = module.def_submodule("spots", "Places, shapes and fluxes of spots.");
  permil::spots::bind(spots);
}
