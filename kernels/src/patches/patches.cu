//! Images to patches, and patches to the rows of a transformer. A thread takes a pack of the output at a time.

#include "../cuda/numbers.cuh"

constexpr int BLOCK = 256;

/// A pack is a part of a line of a patch.
template <int PACK>
__device__ __forceinline__ void
patches(const float* pixels, u32 channels, u32 height, u32 width, u32 patch_height, u32 patch_width, void* output, u32 type,
        u64 packs) {
    const u32 across = width / patch_width, down = height / patch_height;
    const u32 packs_of_line = patch_width / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        u32 rest = static_cast<u32>(pack);
        const auto digit = [&rest](u32 base) {
            const u32 quotient = rest / base, remainder = rest - quotient * base;
            rest = quotient;
            return remainder;
        };
        const u32 x = digit(packs_of_line) * PACK;
        const u32 y = digit(patch_height);
        const u32 channel = digit(channels);
        const u32 left = digit(across) * patch_width;
        const u32 top = digit(down) * patch_height;
        const u64 line = (static_cast<u64>(rest) * channels + channel) * height + top + y;
        float numbers[PACK];
        load<PACK>(numbers, pixels + line * width + left + x);
        store_typed<PACK>(output, type, pack * PACK, numbers);
    }
}

#define PATCHES(NAME, PACK)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                 \
        NAME(const float* pixels, u32 channels, u32 height, u32 width, u32 patch_height, u32 patch_width, void* output, \
             u32 type, u32 packs) {                                                                                     \
        patches<PACK>(pixels, channels, height, width, patch_height, patch_width, output, type, packs);                 \
    }

PATCHES(patches_wide, 4)
PATCHES(patches_pairs, 2)
PATCHES(patches_narrow, 1)

/// An item has `count` numbers, the first `before` of which come from `first` and the others from its patches.
template <int PACK>
__device__ __forceinline__ void
assemble(const void* patches, u32 patches_type, const float* first, u32 before, const float* positions, u32 count, void* output,
         u32 output_type, u64 packs) {
    const u32 packs_of_item = count / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 item = static_cast<u32>(pack) / packs_of_item;
        const u32 index = (static_cast<u32>(pack) - item * packs_of_item) * PACK;
        float numbers[PACK], position[PACK];
        if (index < before) {
            load<PACK>(numbers, first + index);
        } else {
            load_typed<PACK>(numbers, patches, patches_type, static_cast<u64>(item) * (count - before) + index - before);
        }
        load<PACK>(position, positions + index);
#pragma unroll
        for (int each = 0; each < PACK; ++each) {
            numbers[each] += position[each];
        }
        store_typed<PACK>(output, output_type, pack * PACK, numbers);
    }
}

#define ASSEMBLE(NAME, PACK)                                                                                            \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                 \
        NAME(const void* patches, u32 patches_type, const float* first, u32 before, const float* positions, u32 count,  \
             void* output, u32 output_type, u32 packs) {                                                                \
        assemble<PACK>(patches, patches_type, first, before, positions, count, output, output_type, packs);             \
    }

ASSEMBLE(assemble_wide, 8)
ASSEMBLE(assemble_narrow, 1)
