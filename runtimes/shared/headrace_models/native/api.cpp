// The functions that Python calls. None throws: errors are texts.
#include <cstdio>
#include <exception>

#include "pack.h"
#include "step.h"

namespace {

using headrace::Decoder;

int report(const std::string& error, char* out, int32_t size) {
  snprintf(out, size, "%s", error.c_str());
  return error.empty() ? 0 : 1;
}

template <class Call>
int guarded(char* error, int32_t size, Call call) {
  try {
    return report(call(), error, size);
  } catch (const std::exception& e) {
    return report(e.what(), error, size);
  }
}

}  // namespace

HEADRACE_API int32_t headrace_abi() { return headrace::kAbi; }

// The name of the kernels that would be used; null if HEADRACE_ISA names none that this processor has.
HEADRACE_API const char* headrace_isa() {
  const headrace::Kernels* kernels = headrace::select_kernels();
  return kernels ? kernels->name : nullptr;
}

HEADRACE_API uint64_t headrace_tensor_bytes(uint32_t kind, uint32_t rows, uint32_t cols) {
  return headrace::tensor_bytes(kind, rows, cols);
}

HEADRACE_API uint32_t headrace_kind(uint32_t ggml_type) { return headrace::kind_of(ggml_type); }

HEADRACE_API int32_t headrace_pack(uint32_t type, const uint8_t* data, uint32_t rows, uint32_t cols,
                                   const int32_t* row_order, uint32_t kind, uint8_t* out) {
  return headrace::pack(type, data, rows, cols, row_order, kind, out) ? 0 : 1;
}

HEADRACE_API Decoder* headrace_open(const headrace::Config* config, const uint8_t* packed, uint64_t bytes,
                                    int32_t threads, char* error, int32_t size) {
  Decoder* decoder = nullptr;
  int failed = guarded(error, size, [&]() -> std::string {
    const headrace::Kernels* kernels = headrace::select_kernels();
    if (!kernels) return "HEADRACE_ISA names no instruction set of this processor";
    decoder = new Decoder(*kernels, threads);
    return decoder->open(*config, packed, bytes);
  });
  if (!failed) return decoder;
  delete decoder;
  return nullptr;
}

HEADRACE_API uint64_t headrace_block_bytes(const headrace::Config* config, int32_t block_tokens, int32_t half) {
  return Decoder::block_bytes(*config, block_tokens, half);
}

HEADRACE_API int32_t headrace_allocate(Decoder* decoder, const headrace::CacheArgs* cache, char* error, int32_t size) {
  return guarded(error, size, [&] { return decoder->allocate(*cache); });
}

HEADRACE_API int32_t headrace_set_adapter(Decoder* decoder, int32_t index, const headrace::LoraArgs* args, char* error,
                                          int32_t size) {
  return guarded(error, size, [&] { return decoder->set_adapter(index, args); });
}

// The next two return a Status.
HEADRACE_API int32_t headrace_step(Decoder* decoder, const headrace::BatchArgs* batch, float* out, char* error,
                                   int32_t size) {
  headrace::Status status = headrace::kFailed;
  int failed = guarded(error, size, [&] {
    std::string why;
    status = decoder->step(*batch, out, why);
    return why;
  });
  return failed ? headrace::kFailed : status;
}

HEADRACE_API int32_t headrace_resume(Decoder* decoder, const headrace::ExpertArgs* experts, int32_t count, char* error,
                                     int32_t size) {
  headrace::Status status = headrace::kFailed;
  int failed = guarded(error, size, [&] {
    std::string why;
    status = decoder->resume(experts, count, why);
    return why;
  });
  return failed ? headrace::kFailed : status;
}

HEADRACE_API void headrace_routing(const Decoder* decoder, headrace::RoutingArgs* out) { *out = decoder->routing(); }

HEADRACE_API int32_t headrace_look_ahead(Decoder* decoder, int32_t layer, float* scores, char* error, int32_t size) {
  return guarded(error, size, [&] { return decoder->look_ahead(layer, scores); });
}

HEADRACE_API void headrace_close(Decoder* decoder) { delete decoder; }
