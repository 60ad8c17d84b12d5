//! Numbers in the memory of a device.

/// What numbers on a device are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceType {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754 half precision.
    F16,
    /// 16 bits, the upper half of an f32. Needs compute capability 8.0.
    Bf16,
    /// Unsigned integers of 32 bits.
    U32,
    /// Bytes.
    U8,
}

impl DeviceType {
    /// Size of one number.
    pub fn bytes(self) -> usize {
        match self {
            DeviceType::F32 | DeviceType::U32 => 4,
            DeviceType::F16 | DeviceType::Bf16 => 2,
            DeviceType::U8 => 1,
        }
    }

    /// How names of kernels end that work on it.
    pub fn suffix(self) -> &'static str {
        match self {
            DeviceType::F32 => "f32",
            DeviceType::F16 => "f16",
            DeviceType::Bf16 => "bf16",
            DeviceType::U32 => "u32",
            DeviceType::U8 => "u8",
        }
    }
}

/// Numbers that lie one behind the other in the memory of a device. Who makes a view sees to it that the memory is there
/// for as long as the device works with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Where the first is.
    pub address: u64,
    /// How many there are.
    pub len: usize,
    /// What they are.
    pub dtype: DeviceType,
}

impl View {
    /// The part from number `start` on, `len` long.
    ///
    /// # Panics
    /// If it lies outside.
    pub fn part(self, start: usize, len: usize) -> View {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part lies outside its view");
        View { address: self.address + (start * self.dtype.bytes()) as u64, len, dtype: self.dtype }
    }

    /// The same memory as numbers of another type; bytes that make no whole number are left out.
    pub fn cast(self, dtype: DeviceType) -> View {
        View { address: self.address, len: self.bytes() / dtype.bytes(), dtype }
    }

    /// The largest power of two, up to 256, that divides its address.
    pub fn alignment(self) -> u32 {
        1 << self.address.trailing_zeros().min(8)
    }

    /// Whether a byte belongs to both.
    pub fn overlaps(self, other: View) -> bool {
        self.address < other.address + other.bytes() as u64 && other.address < self.address + self.bytes() as u64
    }

    /// Size of all numbers.
    pub fn bytes(self) -> usize {
        self.len * self.dtype.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_casts_stay_within() {
        let bytes = View { address: 0x1000, len: 33, dtype: DeviceType::U8 };
        let halves = bytes.part(2, 31).cast(DeviceType::F16);
        assert_eq!((halves.address, halves.len, halves.bytes(), halves.alignment()), (0x1002, 15, 30, 2));
        assert_eq!((bytes.alignment(), View { address: 0, ..bytes }.alignment()), (256, 256));
        assert!(bytes.overlaps(halves) && !bytes.part(0, 2).overlaps(halves) && !halves.overlaps(bytes.part(0, 2)));
    }
}
