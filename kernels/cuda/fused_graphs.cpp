#ifdef PLIMSOLL_HAVE_CUDNN

#include "kernels/cuda/fused_graphs.hpp"

namespace plimsoll::cuda {
namespace {

using Tensor = CudnnGraph::Tensor;

// cuDNN recognises a chain of operations as attention by its order and by which tensors are kept (NVIDIA's developer
// guide, "Fused Flash Attention fprop" and "bprop"); both functions below follow it.
struct Builder {
  const FusedShape& shape;
  CudnnGraph graph{};
  cudnnDataType_t type = shape.dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
  Dims scores{shape.batch, shape.heads, shape.length, shape.length};
  Dims rows{shape.batch, shape.heads, shape.length, 1};
  Dims transposed_strides{shape.heads * shape.length * shape.length, shape.length* shape.length, 1, shape.length};

  // [batch, heads, length, head_dim] of packed rows, and its transpose.
  Tensor heads(std::int64_t count, std::int64_t batch, std::int64_t token) {
    return graph.input(type, {shape.batch, count, shape.length, shape.head_dim}, {batch, shape.head_dim, token, 1});
  }
  Tensor heads_transposed(std::int64_t count, std::int64_t batch, std::int64_t token) {
    return graph.input(type, {shape.batch, count, shape.head_dim, shape.length}, {batch, shape.head_dim, 1, token});
  }
  Tensor row_values() { return graph.input(CUDNN_DATA_FLOAT, rows, {shape.heads * shape.length, shape.length, 1, 1}); }
  Tensor score() { return graph.between(CUDNN_DATA_FLOAT, scores); }
  Tensor row() { return graph.between(CUDNN_DATA_FLOAT, rows, {shape.heads * shape.length, shape.length, 1, 1}); }

  Tensor apply(cudnnPointwiseMode_t mode, Tensor x, Tensor b) {
    const Tensor y = score();
    graph.pointwise(mode, x, b, y);
    return y;
  }
  // −∞ where the key comes after the query.
  Tensor mask(Tensor x, Tensor masked) {
    const Tensor query = graph.between(CUDNN_DATA_INT32, scores), key = graph.between(CUDNN_DATA_INT32, scores);
    graph.pointwise(CUDNN_POINTWISE_GEN_INDEX, x, nullptr, query, CUDNN_DATA_FLOAT, nullptr, 2);
    graph.pointwise(CUDNN_POINTWISE_GEN_INDEX, x, nullptr, key, CUDNN_DATA_FLOAT, nullptr, 3);
    const Tensor seen = graph.between(CUDNN_DATA_BOOLEAN, scores), y = score();
    graph.pointwise(CUDNN_POINTWISE_CMP_GE, query, key, seen, CUDNN_DATA_BOOLEAN);
    graph.pointwise(CUDNN_POINTWISE_BINARY_SELECT, x, masked, y, CUDNN_DATA_FLOAT, seen);
    return y;
  }
  // Of [.., length, length], as an operand of a product.
  Tensor transpose(Tensor x) {
    const Tensor y = graph.between(type, scores, transposed_strides);
    graph.reshape(x, y);
    return y;
  }
  // to = a · b of every query head, summed over those that share a key head.
  void grouped_product(Tensor a, Tensor b, Tensor to) {
    if (shape.heads == shape.kv_heads) return graph.matmul(a, b, to);
    const Tensor all = graph.between(type, {shape.batch, shape.heads, shape.length, shape.head_dim});
    graph.matmul(a, b, all);
    graph.reduce(CUDNN_REDUCE_TENSOR_ADD, all, to);
  }
};

}  // namespace

CudnnPlan plan_fused_forward(const FusedShape& s, cudnnHandle_t handle, std::int64_t workspace_bytes,
                             cudnnBackendDescriptor_t device) {
  Builder b{s};
  CudnnGraph& graph = b.graph;
  const Tensor queries = b.heads(s.heads, s.qkv_batch, s.qkv_token);
  const Tensor keys = b.heads_transposed(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor values = b.heads(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor out = b.heads(s.heads, s.out_batch, s.out_token), lse = b.row_values();
  const Tensor scale = graph.scalar(), masked = graph.scalar();
  const Tensor product = b.score();
  graph.matmul(queries, keys, product);
  const Tensor score = b.mask(b.apply(CUDNN_POINTWISE_MUL, product, scale), masked);
  const Tensor top = b.row(), sum = b.row(), log = b.row();
  graph.reduce(CUDNN_REDUCE_TENSOR_MAX, score, top);
  const Tensor exponential = b.score();
  graph.pointwise(CUDNN_POINTWISE_EXP, b.apply(CUDNN_POINTWISE_SUB, score, top), nullptr, exponential);
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, exponential, sum);
  graph.pointwise(CUDNN_POINTWISE_LOG, sum, nullptr, log);
  graph.pointwise(CUDNN_POINTWISE_ADD, top, log, lse);
  const Tensor probabilities = graph.between(b.type, b.scores);
  graph.pointwise(CUDNN_POINTWISE_DIV, exponential, sum, probabilities);
  graph.matmul(probabilities, values, out);
  return graph.finish(handle, workspace_bytes, device);
}

CudnnPlan plan_fused_backward(const FusedShape& s, cudnnHandle_t handle, std::int64_t workspace_bytes,
                              cudnnBackendDescriptor_t device) {
  Builder b{s};
  CudnnGraph& graph = b.graph;
  const Tensor queries = b.heads(s.heads, s.qkv_batch, s.qkv_token);
  const Tensor keys = b.heads_transposed(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor values = b.heads_transposed(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor out = b.heads(s.heads, s.out_batch, s.out_token), dout = b.heads(s.heads, s.out_batch, s.out_token);
  const Tensor lse = b.row_values();
  const Tensor dqueries = b.heads(s.heads, s.qkv_batch, s.qkv_token);
  const Tensor dkeys = b.heads(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor dvalues = b.heads(s.kv_heads, s.qkv_batch, s.qkv_token);
  const Tensor row_sums = b.row_values();
  const Tensor scale = graph.scalar(), masked = graph.scalar(), one = graph.scalar();
  // Σ out · dout of each row
  const Dims head{s.batch, s.heads, s.length, s.head_dim};
  const Tensor both = graph.between(CUDNN_DATA_FLOAT, head,
                                    {s.heads * s.length * s.head_dim, s.length * s.head_dim, s.heads * s.head_dim, 1});
  graph.pointwise(CUDNN_POINTWISE_MUL, dout, out, both);
  const Tensor sum = b.row();
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, both, sum);
  graph.pointwise(CUDNN_POINTWISE_MUL, sum, one, row_sums);
  // p = exp(score − lse), dV = pᵀ · dout
  const Tensor product = b.score(), p = b.score();
  graph.matmul(queries, keys, product);
  const Tensor shifted = b.apply(CUDNN_POINTWISE_SUB, b.apply(CUDNN_POINTWISE_MUL, product, scale), lse);
  graph.pointwise(CUDNN_POINTWISE_EXP, b.mask(shifted, masked), nullptr, p);
  b.grouped_product(b.transpose(p), dout, dvalues);
  // The gradient of queries is a product like any other: that, not a sum into a buffer, makes it the same in every run.
  // dS = scale · p · (dout · Vᵀ − row_sums), dK = dSᵀ · Q, dQ = dS · K
  const Tensor dp = b.score();
  graph.matmul(dout, values, dp);
  const Tensor inner = b.apply(CUDNN_POINTWISE_MUL, b.apply(CUDNN_POINTWISE_SUB, dp, row_sums), p);
  const Tensor ds = b.apply(CUDNN_POINTWISE_MUL, inner, scale);
  b.grouped_product(b.transpose(ds), queries, dkeys);
  const Tensor rows_of_keys =
      graph.between(b.type, {s.batch, s.kv_heads, s.length, s.head_dim}, {s.qkv_batch, s.head_dim, s.qkv_token, 1});
  graph.reshape(keys, rows_of_keys);
  graph.matmul(ds, rows_of_keys, dqueries);
  return graph.finish(handle, workspace_bytes, device);
}

}  // namespace plimsoll::cuda

#endif
