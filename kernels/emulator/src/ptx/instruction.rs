//! Instructions as the interpreter runs them: names resolved to registers, calls put in place, labels to positions.

use super::element::Element;
use super::operation::{
    BinaryFloat, BinaryHalf, BinaryInteger, Class, Conversion, Relation, TernaryFloat, TernaryHalf, TernaryInteger, UnaryFloat,
    UnaryHalf, UnaryInteger,
};

/// A register of a warp, or, with [`CONSTANT`] set, one of the kernel's constants.
pub(crate) type Register = u32;

/// Marks a constant.
pub(crate) const CONSTANT: Register = 1 << 31;

/// Registers that a warp starts with, by their place.
pub(crate) const SPECIAL: [&str; 25] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%lanemask_eq",
    "%lanemask_le",
    "%lanemask_lt",
    "%lanemask_ge",
    "%lanemask_gt",
    "%dynamic_smem_size",
    "%total_smem_size",
    "%smid",
    "%nsmid",
    "%gridid",
];

/// Where `_` goes.
pub(crate) const SINK: Register = SPECIAL.len() as u32;
/// The first register of a kernel's own.
pub(crate) const FIRST_REGISTER: Register = SINK + 1;
/// The predicate that always holds.
pub(crate) const TRUE: u32 = 0;
/// Where a predicate goes that nothing reads.
pub(crate) const FALSE_SINK: u32 = 1;
/// The first predicate of a kernel's own.
pub(crate) const FIRST_PREDICATE: u32 = 2;

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x5300_0000_0000_0000;
/// Generic addresses of a thread's local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x4C00_0000_0000_0000;
/// Generic addresses of the kernel's parameters start here.
pub(crate) const PARAMETER_WINDOW: u64 = 0x5000_0000_0000_0000;
/// Which bits of a generic address name the window.
pub(crate) const WINDOW_MASK: u64 = 0xFF00_0000_0000_0000;

/// A value known at the latest when a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Value(u64),
    /// The address of a variable of the module and what is added.
    Global(usize, i64),
    /// An offset into the dynamic shared memory.
    Dynamic(i64),
}

/// A predicate as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) predicate: u32,
    pub(crate) negated: bool,
}

/// Which memory an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Place {
    Generic,
    Global,
    Shared,
    Local,
    Parameter,
}

/// An address: a register and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) place: Place,
    pub(crate) base: Register,
    pub(crate) offset: i64,
}

/// Up to four registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Several {
    pub(crate) registers: [Register; 4],
    pub(crate) count: u8,
}

impl Several {
    /// The registers.
    pub(crate) fn list(&self) -> &[Register] {
        &self.registers[..usize::from(self.count)]
    }
}

/// What happens to f32 besides the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Modes {
    /// Subnormal inputs and outputs become zero.
    pub(crate) flush: bool,
    /// The result is kept within 0 and 1; NaN becomes 0.
    pub(crate) saturate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// What an instruction with carries computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Carrying {
    Add,
    Subtract,
    MultiplyLow { signed: bool },
    MultiplyHigh { signed: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum AtomicKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Reduction {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// What a barrier does besides waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    /// Waits.
    Sync,
    /// Counts, and goes on.
    Arrive,
    /// Waits, and counts the lanes where the condition holds.
    Count { to: Register, condition: Condition },
    /// Waits, and whether the condition holds in all threads.
    All { to: u32, condition: Condition },
    /// Waits, and whether it holds in any.
    Any { to: u32, condition: Condition },
}

/// The type of the inputs of a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum MatrixElement {
    Half,
    Bfloat,
    /// Bytes; whether those of A and of B are signed.
    Byte {
        a_signed: bool,
        b_signed: bool,
    },
}

/// `mma.sync` of 16 x 8 results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatrixProduct {
    pub(crate) depth: usize,
    pub(crate) element: MatrixElement,
    /// Whether sums are f32 (or s32); pairs of f16 otherwise.
    pub(crate) wide_in: bool,
    pub(crate) wide_out: bool,
    pub(crate) to: Vec<Register>,
    pub(crate) a: Vec<Register>,
    pub(crate) b: Vec<Register>,
    pub(crate) c: Vec<Register>,
}

/// What an instruction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    UnaryInteger(UnaryInteger, Register, Register),
    BinaryInteger(BinaryInteger, Register, [Register; 2]),
    TernaryInteger(TernaryInteger, Register, [Register; 3]),
    UnaryFloat(UnaryFloat, Register, Register, Modes),
    BinaryFloat(BinaryFloat, Register, [Register; 2], Modes),
    TernaryFloat(TernaryFloat, Register, [Register; 3], Modes),
    UnaryHalf(UnaryHalf, Register, Register),
    BinaryHalf(BinaryHalf, Register, [Register; 2]),
    TernaryHalf(TernaryHalf, Register, [Register; 3]),
    Convert(Conversion, Register, Register),
    /// Two f32 to a pair; the first goes to the high half.
    ConvertPair(Conversion, Register, [Register; 2]),
    /// Any function of three bits (`lop3`).
    Lookup {
        to: Register,
        inputs: [Register; 3],
        table: u8,
    },
    /// `bfi`.
    InsertBits {
        to: Register,
        field: Register,
        base: Register,
        position: Register,
        length: Register,
        bits: u32,
    },
    Compare {
        class: Class,
        relation: Relation,
        to: u32,
        other: u32,
        inputs: [Register; 2],
        combine: Option<(Logic, Condition)>,
    },
    /// `set`: a comparison to a value.
    CompareToValue {
        class: Class,
        relation: Relation,
        result: Element,
        to: Register,
        inputs: [Register; 2],
    },
    /// `testp`: which of finite, infinite, NaN, normal, subnormal, as `core::num::FpCategory` orders them, a bit each.
    Classify {
        double: bool,
        classes: u8,
        to: u32,
        input: Register,
    },
    Select {
        to: Register,
        inputs: [Register; 2],
        condition: Condition,
    },
    /// Logic on predicates; a move is `And` with true.
    Predicate {
        logic: Logic,
        negated: bool,
        to: u32,
        inputs: [Condition; 2],
    },
    Pack {
        to: Register,
        parts: Several,
        bits: u32,
    },
    Unpack {
        to: Several,
        from: Register,
        bits: u32,
    },
    Carry {
        what: Carrying,
        to: Register,
        inputs: [Register; 3],
        bits: u32,
        takes: bool,
        gives: bool,
    },
    /// `isspacep`.
    IsPlace {
        to: u32,
        address: Register,
        place: Place,
    },
    Load {
        to: Several,
        address: Address,
        bytes: u8,
        signed_width: u8,
    },
    Store {
        from: Several,
        address: Address,
        bytes: u8,
    },
    Atomic {
        kind: AtomicKind,
        element: Element,
        to: Register,
        address: Address,
        inputs: [Register; 2],
    },
    Shuffle {
        mode: Shuffle,
        to: Register,
        inside: u32,
        from: Register,
        lane: Register,
        clamp: Register,
        members: Register,
    },
    Vote {
        vote: Vote,
        to: Register,
        to_predicate: u32,
        condition: Condition,
        members: Register,
    },
    ActiveMask {
        to: Register,
    },
    /// `match`: lanes with the same value; with a predicate, whether all have it.
    Match {
        all: bool,
        to: Register,
        same: u32,
        value: Register,
        bits: u32,
        members: Register,
    },
    Reduce {
        reduction: Reduction,
        signed: bool,
        to: Register,
        from: Register,
        members: Register,
    },
    Barrier {
        kind: BarrierKind,
        id: Register,
        count: Option<Register>,
        aligned: bool,
    },
    WarpBarrier {
        members: Register,
    },
    MatrixProduct(Box<MatrixProduct>),
    LoadMatrix {
        to: Several,
        address: Address,
        transposed: bool,
    },
    StoreMatrix {
        from: Several,
        address: Address,
        transposed: bool,
    },
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        source_bytes: Option<Register>,
    },
    CommitCopies,
    /// Waits until at most so many groups of copies are under way; nothing for all copies.
    WaitCopies {
        pending: Option<u32>,
    },
    Clock {
        to: Register,
    },
    Branch {
        target: u32,
    },
    BranchTable {
        index: Register,
        targets: Box<[u32]>,
    },
    Nothing,
    Exit,
    Trap,
    Assert,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) operation: Operation,
    pub(crate) condition: Option<Condition>,
    pub(crate) line: u32,
}
