//! Which vector instructions the processor has, asked once.

use std::sync::OnceLock;

/// A set of vector instructions, the later ones including the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compiler assumes of every processor.
    Portable,
    /// AVX2 with fused multiply-add: 8 numbers of 32 bits at once.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 numbers of 32 bits at once.
    Avx512,
    /// AVX-512 with BF16 (products of pairs of bf16 summed in f32) and VNNI (of four 8-bit integers in 32 bits).
    Avx512Bf16,
}

impl Isa {
    /// The best that this processor has. Everything that is computed by this crate uses it unless told otherwise.
    pub fn detect() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// All that this processor has, from the plainest: for tests and for comparing them.
    pub fn available() -> impl Iterator<Item = Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16].into_iter().filter(|isa| *isa <= Isa::detect())
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
    match (avx2, avx512, bf16) {
        (true, true, true) => Isa::Avx512Bf16,
        (true, true, false) => Isa::Avx512,
        (true, false, _) => Isa::Avx2,
        (false, _, _) => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}
