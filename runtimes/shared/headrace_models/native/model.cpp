#include "model.h"

#include <cstring>

namespace headrace {
namespace {

constexpr int kMostHeadDim = 512;  // of the query's buffer in attention.inc

// Reads entries in their fixed order (`slots` in packing.py) and checks each: kernels trust the result.
class Reader {
 public:
  Reader(const uint8_t* packed, uint64_t bytes) : packed_(packed), bytes_(bytes) {}

  std::string error;

  void header() {
    Header header;
    if (bytes_ < sizeof header) return fail("it has " + std::to_string(bytes_) + " bytes, less than a header");
    memcpy(&header, packed_, sizeof header);
    if (memcmp(header.magic, kMagic, sizeof kMagic)) return fail("it does not begin with HRWEIGHT");
    if (header.version != kVersion) return fail("its version is " + std::to_string(header.version));
    if (header.bytes > bytes_)
      return fail("it has " + std::to_string(bytes_) + " bytes of " + std::to_string(header.bytes) + ": it was cut");
    if (header.tensors > (header.bytes - sizeof header) / sizeof(Entry)) return fail("its table is cut");
    tensors_ = header.tensors;
    bytes_ = header.bytes;
  }

  Matrix matrix(int rows, int cols) {
    Entry entry = next(rows, cols);
    if (error.empty() && entry.kind >= kVector) fail(name() + " is not a matrix");
    if (error.empty() && quantised(entry.kind) && cols % 32) fail(name() + " has no whole groups of 32");
    return {entry.kind, entry.rows, entry.cols, packed_ + entry.offset};
  }

  const float* vector(int n) {
    Entry entry = next(1, n);
    if (error.empty() && entry.kind != kVector) fail(name() + " is not a vector");
    return error.empty() ? reinterpret_cast<const float*>(packed_ + entry.offset) : nullptr;
  }

  void end() {
    if (error.empty() && index_ != tensors_) fail("it has " + std::to_string(tensors_) + " tensors, too many");
  }

 private:
  std::string name() { return "tensor " + std::to_string(index_ - 1); }

  void fail(std::string why) {
    if (error.empty()) error = std::move(why);
  }

  Entry next(int rows, int cols) {
    Entry entry{};
    if (!error.empty()) return entry;
    if (index_++ >= tensors_) return fail(name() + " is missing"), entry;
    memcpy(&entry, packed_ + sizeof(Header) + (index_ - 1) * sizeof entry, sizeof entry);
    if (entry.kind >= kKinds)
      fail(name() + " is of the unknown kind " + std::to_string(entry.kind));
    else if (entry.rows != uint32_t(rows) || entry.cols != uint32_t(cols))
      fail(name() + " is of shape [" + std::to_string(entry.rows) + ", " + std::to_string(entry.cols) +
           "], and the configuration needs [" + std::to_string(rows) + ", " + std::to_string(cols) + "]");
    else if (entry.offset % kAlign || entry.bytes != tensor_bytes(entry.kind, rows, cols) || entry.offset > bytes_ ||
             entry.bytes > bytes_ - entry.offset)
      fail(name() + " does not lie within the buffer");
    return entry;
  }

  const uint8_t* packed_;
  uint64_t bytes_;
  uint32_t tensors_ = 0, index_ = 0;
};

}  // namespace

std::string Model::bind(const Config& given, const uint8_t* packed, uint64_t bytes) {
  config = given;
  const Config& c = config;
  if (c.experts && (c.experts_used < 1 || c.experts_used > c.experts))
    return std::to_string(c.experts_used) + " of " + std::to_string(c.experts) + " experts";
  if (c.experts && c.post_norms) return "experts with norms after them";
  if (c.head_dim > kMostHeadDim) return "heads of " + std::to_string(c.head_dim) + " are longer than 512";
  frequencies.assign(c.frequencies, c.frequencies + c.head_dim / 2);
  window_frequencies.assign(c.window_frequencies, c.window_frequencies + c.head_dim / 2);
  windows.assign(c.windows, c.windows + c.layers);
  const int queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  Reader reader(packed, bytes);
  reader.header();
  embedding = reader.matrix(c.vocabulary, c.width);
  head = c.tied ? embedding : reader.matrix(c.vocabulary, c.width);
  norm = reader.vector(c.width);
  for (int i = 0; i < c.layers; ++i) {
    Layer layer{};
    layer.attention_norm = reader.vector(c.width);
    layer.q = reader.matrix(queries, c.width);
    layer.k = reader.matrix(keys, c.width);
    layer.v = reader.matrix(keys, c.width);
    if (c.qkv_bias) {
      layer.q_bias = reader.vector(queries);
      layer.k_bias = reader.vector(keys);
      layer.v_bias = reader.vector(keys);
    }
    if (c.qk_norm) {
      layer.q_norm = reader.vector(c.wide_qk_norm ? queries : c.head_dim);
      layer.k_norm = reader.vector(c.wide_qk_norm ? keys : c.head_dim);
    }
    layer.output = reader.matrix(c.width, queries);
    if (c.post_norms) layer.post_attention_norm = reader.vector(c.width);
    layer.ffn_norm = reader.vector(c.width);
    auto feed_forward = [&](int width) -> FeedForward {
      Matrix gate = reader.matrix(width, c.width), up = reader.matrix(width, c.width);
      return {gate, up, reader.matrix(c.width, width)};
    };
    layer.has_experts = c.experts && i >= c.first_experts;
    if (layer.has_experts) {
      layer.router = reader.matrix(c.experts, c.width);
      if (c.score_bias) layer.score_bias = reader.vector(c.experts);
      if (c.shared_gate) layer.shared_gate = reader.vector(c.width);
      if (c.shared_width) layer.ffn = feed_forward(c.shared_width);
      for (int e = 0; e < c.experts && !c.given_experts; ++e) layer.experts.push_back(feed_forward(c.expert_width));
    } else {
      layer.ffn = feed_forward(c.ffn_width);
    }
    if (c.post_norms) layer.post_ffn_norm = reader.vector(c.width);
    layers.push_back(layer);
  }
  reader.end();
  return reader.error;
}

}  // namespace headrace
