//! Instructions that fused attention is made of: products of 16-bit fragments, fragments from shared memory, and copies
//! into it.
//!
//! Fragments are as the PTX ISA lays them out for `m16n8k16`; with `group = lane / 4` and `pair = 2 * (lane % 4)`, a lane has
//! - of the left operand `[16, 16]`: rows `group` and `group + 8`, columns `pair`, `pair + 1` and those 8 further on,
//! - of the right operand `[16, 8]`: rows `pair`, `pair + 1` and those 8 further on, column `group`,
//! - of the sum `[16, 8]`: rows `group` and `group + 8`, columns `pair` and `pair + 1`.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace attention {

/// The address of shared memory as instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// `sum += left * right`, products exact, sums in f32.
template <typename T>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1);

template <>
__device__ __forceinline__ void multiply<__half>(
    float (&sum)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
#else
    // Half the depth at a time: its fragments are the halves of those of the deeper product.
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(right0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[2]), "r"(left[3]), "r"(right1));
#endif
}

#if __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(
    float (&sum)[4], const uint32_t (&left)[4], uint32_t right0, uint32_t right1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}
#endif

/// Two numbers rounded to nearest, the first in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t pack(float first, float second);

template <>
__device__ __forceinline__ uint32_t pack<__half>(float first, float second) {
    const __half2 packed = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&packed);
}

#if __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float first, float second) {
    const __nv_bfloat162 packed = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&packed);
}
#endif

/// Four matrices of 8 rows of 16 bytes from shared memory, `address` of row `lane % 8` of matrix `lane / 8`: a lane gets
/// columns `pair` and `pair + 1` of row `group` of each.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

/// As `load_matrices`, transposed: a lane gets rows `pair` and `pair + 1` of column `group` of each.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

/// Stores 4 bytes to shared memory.
__device__ __forceinline__ void store_word(uint32_t to, uint32_t word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

/// A copy of 16 bytes from global to shared memory, or of as many zeros. On its way without the thread's help where the GPU can
/// do that; elsewhere in registers, so that several begin before the first is finished.
struct Copy {
#if __CUDA_ARCH__ >= 800
    /// How many copies to begin before finishing the first.
    static constexpr int TOGETHER = 1;

    __device__ __forceinline__ void begin(uint32_t to, const void* from, bool real) {
        const int bytes = real ? 16 : 0;
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes)
            : "memory");
    }

    __device__ __forceinline__ void finish(uint32_t) const {}
#else
    static constexpr int TOGETHER = 4;
    uint4 data;

    __device__ __forceinline__ void begin(uint32_t, const void* from, bool real) {
        data = real ? __ldg(static_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ void finish(uint32_t to) const {
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(data.x), "r"(data.y), "r"(data.z), "r"(data.w)
                     : "memory");
    }
#endif
};

/// Waits for all copies that this thread has begun. Other threads see them after a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

/// 2 to the power of `x`; 0 for minus infinity.
__device__ __forceinline__ float power_of_two(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace attention
