//! A warp: its registers, and which of its lanes are where.

use crate::ptx::Kernel;
use crate::ptx::instruction::{CONSTANT, Condition, FIRST_REGISTER, Register, TRUE};
use crate::ptx::operation::Lanes;

/// Why lanes do not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Ready,
    /// For the other lanes of a mask.
    Lanes(u32),
    /// For other warps, at a barrier.
    Barrier(u32),
}

/// Lanes at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) at: u32,
    pub(super) lanes: u32,
    pub(super) wait: Wait,
}

/// A copy to shared memory that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) lane: u32,
    pub(super) batch: u32,
    pub(super) to: u64,
    pub(super) bytes: u8,
    pub(super) data: [u8; 16],
    pub(super) line: u32,
}

/// A warp of a block.
#[derive(Debug)]
pub(super) struct Warp {
    pub(super) number: u32,
    pub(super) registers: Vec<Lanes>,
    pub(super) predicates: Vec<u32>,
    pub(super) carry: u32,
    /// The local memory of lane 0, then of lane 1, and so on.
    pub(super) local: Vec<u8>,
    /// Lanes that exist and have not exited.
    pub(super) alive: u32,
    pub(super) groups: Vec<Group>,
    pub(super) copies: Vec<Copy>,
    /// How many groups of copies each lane has committed.
    pub(super) batches: [u32; 32],
}

/// The lanes of a mask, lowest first.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}

impl Warp {
    pub(super) fn new(kernel: &Kernel, number: u32) -> Self {
        Self {
            number,
            registers: vec![[0; 32]; kernel.registers as usize],
            predicates: vec![0; kernel.predicates as usize],
            carry: 0,
            local: vec![0xFF; kernel.local_bytes as usize * 32],
            alive: 0,
            groups: Vec::new(),
            copies: Vec::new(),
            batches: [0; 32],
        }
    }

    /// Starts the warp for another block.
    pub(super) fn start(&mut self, special: &[Lanes; FIRST_REGISTER as usize], alive: u32) {
        self.registers[..FIRST_REGISTER as usize].copy_from_slice(special);
        self.predicates[TRUE as usize] = u32::MAX;
        self.carry = 0;
        self.alive = alive;
        self.groups.clear();
        self.groups.push(Group { at: 0, lanes: alive, wait: Wait::Ready });
        self.local.fill(0xFF);
        self.copies.clear();
        self.batches = [0; 32];
    }

    #[inline(always)]
    pub(super) fn read<'a>(&'a self, constants: &'a [Lanes], register: Register) -> &'a Lanes {
        if register & CONSTANT == 0 { &self.registers[register as usize] } else { &constants[(register & !CONSTANT) as usize] }
    }

    #[inline(always)]
    pub(super) fn write(&mut self, register: Register, values: &Lanes, mask: u32) {
        let to = &mut self.registers[register as usize];
        if mask == u32::MAX {
            *to = *values;
        } else {
            for (lane, (to, value)) in to.iter_mut().zip(values).enumerate() {
                *to = if mask & (1 << lane) != 0 { *value } else { *to };
            }
        }
    }

    #[inline(always)]
    pub(super) fn holds(&self, condition: Condition) -> u32 {
        let bits = self.predicates[condition.predicate as usize];
        if condition.negated { !bits } else { bits }
    }

    #[inline(always)]
    pub(super) fn write_predicate(&mut self, predicate: u32, bits: u32, mask: u32) {
        let to = &mut self.predicates[predicate as usize];
        *to = (*to & !mask) | (bits & mask);
    }

    /// The lowest group that can go on.
    pub(super) fn next_group(&self) -> Option<usize> {
        let ready = self.groups.iter().enumerate().filter(|(_, group)| group.wait == Wait::Ready);
        ready.min_by_key(|(_, group)| group.at).map(|(index, _)| index)
    }

    /// Joins groups that are at the same instruction, unless both wait at a barrier.
    pub(super) fn join(&mut self) {
        let mut index = 0;
        while index < self.groups.len() {
            let group = self.groups[index];
            let other = self.groups[..index].iter().position(|other| {
                other.at == group.at && !matches!((other.wait, group.wait), (Wait::Barrier(_), _) | (_, Wait::Barrier(_)))
            });
            match other {
                Some(other) => {
                    self.groups[other].lanes |= group.lanes;
                    self.groups[other].wait = Wait::Ready;
                    self.groups.swap_remove(index);
                }
                None => index += 1,
            }
        }
    }

    /// Lets lanes that wait for others look again, as some have exited.
    pub(super) fn look_again(&mut self) {
        for group in &mut self.groups {
            if matches!(group.wait, Wait::Lanes(_)) {
                group.wait = Wait::Ready;
            }
        }
    }
}
