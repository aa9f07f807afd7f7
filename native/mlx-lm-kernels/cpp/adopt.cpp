// Arrays over memory that the caller owns. MLX's CPU allocator copies such memory; but a buffer of its is a pointer to a size that
// lies right before the data, and an array's data carries its own deleter. See src/adopt.rs for the other side.

#include <cstring>
#include <stdexcept>

#include "mlx/allocator.h"
#include "mlx/array.h"

namespace mx = mlx::core;

namespace {

constexpr size_t kHeader = sizeof(size_t);

mx::Dtype dtype_of(int32_t val) {
  for (auto d : {mx::bool_, mx::uint8, mx::uint16, mx::uint32, mx::uint64, mx::int8, mx::int16, mx::int32, mx::int64,
                 mx::float16, mx::float32, mx::float64, mx::bfloat16, mx::complex64}) {
    if (int32_t(d.val()) == val) return d;
  }
  throw std::invalid_argument("unknown dtype");
}

} // namespace

extern "C" {

// Whether this MLX's buffers are laid out as said above. On a build for a GPU they are not.
int mlk_can_adopt() {
  try {
    auto buffer = mx::allocator::malloc(4096);
    auto* start = static_cast<char*>(buffer.ptr());
    size_t size = 0;
    bool same = start && static_cast<char*>(buffer.raw_ptr()) == start + kHeader;
    if (same) std::memcpy(&size, start, kHeader);
    same = same && size == mx::allocator::allocator().size(buffer) && size >= 4096;
    mx::allocator::free(buffer);
    return same;
  } catch (const std::exception&) {
    return 0;
  }
}

// An array over `data`, before which `kHeader` bytes are free to write. Calls `drop(owner)` when the data is no longer needed, and
// also on failure, when it returns null.
void* mlk_adopt(void* data, const int32_t* shape, int32_t ndim, int32_t dtype, void* owner, void (*drop)(void*)) {
  try {
    std::shared_ptr<void> owned(owner, drop);
    auto* a = new mx::array(mx::Shape(shape, shape + ndim), dtype_of(dtype), nullptr, {});
    size_t size = a->nbytes();
    auto* start = static_cast<char*>(data) - kHeader;
    std::memcpy(start, &size, kHeader);
    a->set_data(mx::allocator::Buffer(start), [owned](mx::allocator::Buffer) {});
    a->set_status(mx::array::Status::available);
    return a;
  } catch (const std::exception&) {
    return nullptr;
  }
}
}
