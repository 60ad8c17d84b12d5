//! Numbers in the memory of a device, and packs of them that move in one access.
//!
//! Kernels compute in f32 whatever they load. A pack is PACK neighbors; its address must be a multiple of its size, or of
//! 16 bytes where it is larger. Who launches sees to that and takes packs of one where it does not hold.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using u32 = unsigned int;
using u64 = unsigned long long;

/// Threads of a warp, all of which take part in an exchange.
constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

/// What numbers are, where kernels are told at run time; as `code` in launch.rs has it.
enum Type : u32 { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_BF16 = 2 };

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

/// What is moved in one access of so many bytes.
template <int BYTES> struct Word;
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = u32; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };

/// A pack as it lies in memory.
template <typename T, int PACK> struct Packed {
    static constexpr int BYTES = PACK * sizeof(T);
    static constexpr int WORD_BYTES = BYTES < 16 ? BYTES : 16;
    static constexpr int WORDS = BYTES / WORD_BYTES;
    using Whole = typename Word<WORD_BYTES>::type;

    Whole words[WORDS];

    __device__ __forceinline__ T operator[](int index) const {
        T number;
        memcpy(&number, reinterpret_cast<const char*>(words) + index * sizeof(T), sizeof(T));
        return number;
    }
};

/// Loads a pack as f32.
template <int PACK, typename T> __device__ __forceinline__ void load(float (&into)[PACK], const T* from) {
    using P = Packed<T, PACK>;
    P packed;
#pragma unroll
    for (int word = 0; word < P::WORDS; ++word) {
        packed.words[word] = reinterpret_cast<const typename P::Whole*>(from)[word];
    }
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        into[index] = widen(packed[index]);
    }
}

/// Rounds a pack and stores it.
template <int PACK, typename T> __device__ __forceinline__ void store(T* to, const float (&from)[PACK]) {
    using P = Packed<T, PACK>;
    P packed;
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        const T number = narrow<T>(from[index]);
        memcpy(reinterpret_cast<char*>(packed.words) + index * sizeof(T), &number, sizeof(T));
    }
#pragma unroll
    for (int word = 0; word < P::WORDS; ++word) {
        reinterpret_cast<typename P::Whole*>(to)[word] = packed.words[word];
    }
}

/// Loads the pack from number `index` on of numbers of a type known at run time; all threads of a launch go the same way.
template <int PACK> __device__ __forceinline__ void load_typed(float (&into)[PACK], const void* from, u32 type, u64 index) {
    switch (type) {
    case TYPE_F16: load<PACK>(into, static_cast<const __half*>(from) + index); break;
    case TYPE_BF16: load<PACK>(into, static_cast<const __nv_bfloat16*>(from) + index); break;
    default: load<PACK>(into, static_cast<const float*>(from) + index); break;
    }
}

/// Stores the pack from number `index` on of numbers of a type known at run time.
template <int PACK> __device__ __forceinline__ void store_typed(void* to, u32 type, u64 index, const float (&from)[PACK]) {
    switch (type) {
    case TYPE_F16: store<PACK>(static_cast<__half*>(to) + index, from); break;
    case TYPE_BF16: store<PACK>(static_cast<__nv_bfloat16*>(to) + index, from); break;
    default: store<PACK>(static_cast<float*>(to) + index, from); break;
    }
}

/// The first pack of a thread and the distance to its next one, where a grid takes packs one behind the other.
__device__ __forceinline__ u64 first_pack() { return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 pack_step() { return static_cast<u64>(gridDim.x) * blockDim.x; }
