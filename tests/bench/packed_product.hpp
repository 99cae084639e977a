#pragma once
// A product whose weights are packed by a call of their own right before it, which a graph of packing nodes would do:
// oneDNN's reorder into the layout its matmul prefers, then the matmul, with planned scratch. Beside gemm() in
// gemm_bench: what packing outside of the library's product would gain.

#include <dnnl.hpp>
#include <vector>

namespace plimsoll {

// C = op(A) · op(B) + beta · C, sizes as in gemm() with rows without padding; beta is 0 or 1.
class PackedProduct {
 public:
  PackedProduct(bool trans_a, bool trans_b, dnnl::memory::dim m, dnnl::memory::dim n, dnnl::memory::dim k, float beta)
      : a_({m, k}, kFloat, trans_a ? Strides{1, m} : Strides{k, 1}),
        b_({k, n}, kFloat, trans_b ? Strides{1, k} : Strides{n, 1}),
        c_({m, n}, kFloat, Strides{n, 1}),
        matmul_(description(beta)),
        pack_({engine_, b_, engine_, matmul_.weights_desc()}),
        product_(matmul_),
        packed_(matmul_.weights_desc(), engine_),
        scratch_(matmul_.scratchpad_desc(), engine_) {}

  void operator()(const float* a, const float* b, float* c) {
    using dnnl::memory;
    // oneDNN's memory objects do not distinguish what is only read
    memory from(b_, engine_, const_cast<float*>(b));
    pack_.execute(stream_, from, packed_);
    product_.execute(stream_, {{DNNL_ARG_SRC, memory(a_, engine_, const_cast<float*>(a))},
                               {DNNL_ARG_WEIGHTS, packed_},
                               {DNNL_ARG_DST, memory(c_, engine_, c)},
                               {DNNL_ARG_SCRATCHPAD, scratch_}});
    stream_.wait();
  }

 private:
  using Strides = dnnl::memory::dims;
  static constexpr auto kFloat = dnnl::memory::data_type::f32;

  dnnl::matmul::primitive_desc description(float beta) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (beta != 0) {
      dnnl::post_ops sum;
      sum.append_sum(beta);
      attributes.set_post_ops(sum);
    }
    const dnnl::memory::desc any(b_.dims(), kFloat, dnnl::memory::format_tag::any);
    return {dnnl::matmul::desc(a_, any, c_), attributes, engine_};
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::memory::desc a_, b_, c_;
  dnnl::matmul::primitive_desc matmul_;
  dnnl::reorder pack_;
  dnnl::matmul product_;
  dnnl::memory packed_, scratch_;
};

}  // namespace plimsoll
