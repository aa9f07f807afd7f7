// Lets a build of MLX without a GPU build graphs as one with a GPU does: norms, rotations and attention are one operation each,
// and so is unpacking, where MLX's functions for the CPU spell them out in a dozen. Put before MLX's own functions (LD_PRELOAD) in a process that counts
// operations and evaluates nothing: these have no code.

#include <stdexcept>
#include <string>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"

namespace mlx::core {

namespace {

class Single : public Primitive {
 public:
  Single(Stream stream, const char* name) : Primitive(stream), name_(name) {}

  void eval_cpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error(std::string(name_) + " is here to be counted, not to be evaluated");
  }

  void eval_gpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    eval_cpu(inputs, outputs);
  }

  const char* name() const override {
    return name_;
  }

 private:
  const char* name_;
};

array single(const char* name, Shape shape, Dtype dtype, std::vector<array> inputs, StreamOrDevice s) {
  return array(std::move(shape), dtype, std::make_shared<Single>(to_stream(s), name), std::move(inputs));
}

// A norm, whose inputs get a common type first.
array norm(const char* name, const array& x, std::vector<std::optional<array>> parameters, StreamOrDevice s) {
  auto dtype = x.dtype();
  for (auto& p : parameters) {
    if (p) {
      dtype = promote_types(dtype, p->dtype());
    }
  }
  std::vector<array> inputs{astype(x, dtype, s)};
  for (auto& p : parameters) {
    if (p) {
      inputs.push_back(astype(*p, dtype, s));
    }
  }
  return single(name, x.shape(), dtype, std::move(inputs), s);
}

} // namespace

array dequantize(
    const array& w,
    const array& scales,
    const std::optional<array>& biases,
    std::optional<int>,
    std::optional<int> bits,
    const std::string& mode,
    const std::optional<array>&,
    std::optional<Dtype> dtype,
    StreamOrDevice s) {
  auto shape = w.shape();
  shape.back() = shape.back() * 32 / bits.value_or(mode == "mxfp8" ? 8 : 4);
  std::vector<array> inputs{w, scales};
  if (biases) {
    inputs.push_back(*biases);
  }
  return single("Dequantize", shape, dtype.value_or(biases ? scales.dtype() : bfloat16), std::move(inputs), s);
}

namespace fast {

// BitNet's layers ask for one without asking whether there is Metal.
CustomKernelFunction metal_kernel(
    const std::string&,
    const std::vector<std::string>&,
    const std::vector<std::string>&,
    const std::string&,
    const std::string&,
    bool,
    bool,
    const CompileOptions&) {
  return [](const std::vector<array>& inputs,
            const std::vector<Shape>& shapes,
            const std::vector<Dtype>& dtypes,
            std::tuple<int, int, int>,
            std::tuple<int, int, int>,
            std::vector<std::pair<std::string, TemplateArg>>,
            std::optional<float>,
            bool,
            StreamOrDevice s) {
    return array::make_arrays(shapes, dtypes, std::make_shared<Single>(to_stream(s), "CustomKernel"), inputs);
  };
}

array rms_norm(const array& x, const std::optional<array>& weight, float, StreamOrDevice s) {
  return norm("RMSNorm", x, {weight}, s);
}

array layer_norm(
    const array& x,
    const std::optional<array>& weight,
    const std::optional<array>& bias,
    float,
    StreamOrDevice s) {
  return norm("LayerNorm", x, {weight, bias}, s);
}

array rope(
    const array& x,
    int,
    bool,
    std::optional<float>,
    float,
    const array& offset,
    const std::optional<array>& freqs,
    StreamOrDevice s) {
  std::vector<array> inputs{x, offset};
  if (freqs) {
    inputs.push_back(*freqs);
  }
  return single("RoPE", x.shape(), x.dtype(), std::move(inputs), s);
}

array rope(
    const array& x,
    int dims,
    bool traditional,
    std::optional<float> base,
    float scale,
    int offset,
    const std::optional<array>& freqs,
    StreamOrDevice s) {
  return rope(x, dims, traditional, base, scale, array(offset, int32), freqs, s);
}

array scaled_dot_product_attention(
    const array& queries,
    const array& keys,
    const array& values,
    const float,
    const std::string&,
    std::optional<array> mask,
    const std::optional<array>& sinks,
    bool,
    StreamOrDevice s) {
  auto dtype = result_type(queries, keys, values);
  std::vector<array> inputs{astype(queries, dtype, s), astype(keys, dtype, s), astype(values, dtype, s)};
  auto shape = queries.shape();
  if (mask) {
    shape.back() = keys.shape(-2);
    auto m = mask->dtype() == bool_ ? *mask : astype(*mask, dtype, s);
    inputs.push_back(broadcast_to(m, shape, s));
  }
  if (sinks) {
    inputs.push_back(astype(*sinks, dtype, s));
  }
  shape.back() = values.shape(-1);
  return single("ScaledDotProductAttention", shape, dtype, std::move(inputs), s);
}

} // namespace fast

} // namespace mlx::core
