// Shows the graph that leads to some arrays. See src/walk.rs for the other side.

#include <exception>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

extern "C" {

// An array (new, the callee's), what it is told by, its operation's name (null for one that is there already), and its inputs.
typedef void (*mlk_visit)(
    void* state, void* array, size_t id, const char* name, const size_t* inputs, size_t n_inputs);

size_t mlk_id(const void* array) {
  return static_cast<const mx::array*>(array)->id();
}

// Visits every array once, after its inputs. Returns 0, or 1 if there is no memory.
int mlk_walk(void* const* outputs, size_t n_outputs, mlk_visit visit, void* state) {
  try {
    std::unordered_set<size_t> seen;
    std::vector<std::pair<mx::array, bool>> stack;
    for (size_t i = 0; i < n_outputs; i++) stack.emplace_back(*static_cast<mx::array*>(outputs[i]), false);
    while (!stack.empty()) {
      auto [a, done] = stack.back();
      stack.pop_back();
      if (!done) {
        if (!seen.insert(a.id()).second) continue;
        stack.emplace_back(a, true);
        for (auto& input : a.inputs()) stack.emplace_back(input, false);
        continue;
      }
      std::vector<size_t> inputs;
      for (auto& input : a.inputs()) inputs.push_back(input.id());
      const char* name = a.has_primitive() ? a.primitive().name() : nullptr;
      visit(state, new mx::array(a), a.id(), name, inputs.data(), inputs.size());
    }
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
}
