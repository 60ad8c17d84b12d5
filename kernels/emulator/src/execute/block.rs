//! The blocks of a launch, one after another, and the turns of their warps.

use super::arithmetic::{compute, has_wide};
use super::collective::{members, together};
use super::lane_memory::{Access, BlockWrites};
use super::matrix::multiply;
use super::shared::Shared;
use super::warp::{Group, Wait, Warp, lanes};
use super::{AccessKind, Counts, Fault, GlobalMemory, Launch, Options};
use crate::ptx::Kernel;
use crate::ptx::instruction::{BarrierKind, Condition, Constant, FIRST_REGISTER, Instruction, Operation, Register};
use crate::ptx::operation::Lanes;

/// Barriers of a block.
const BARRIERS: usize = 16;
/// Warp instructions after which another warp has its turn, at least.
const TURN: u64 = 512;

/// What an instruction does wrong, and the lane that does.
#[derive(Debug)]
pub(super) struct Trouble {
    lane: Option<usize>,
    reason: String,
}

impl Trouble {
    pub(super) fn of(lane: usize, reason: impl Into<String>) -> Self {
        Self { lane: Some(lane), reason: reason.into() }
    }

    fn any(reason: impl Into<String>) -> Self {
        Self { lane: None, reason: reason.into() }
    }
}

/// A barrier with those who have arrived.
#[derive(Debug, Clone, Default)]
struct Barrier {
    /// Lanes by warp.
    arrived: Vec<u32>,
    threads: u32,
    /// How many threads it is for, where the instruction says.
    count: Option<u32>,
    used: bool,
    clock: Vec<u32>,
    holding: u32,
    holds_in_all: bool,
}

/// A launch as it runs.
pub(super) struct Grid<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) parameters: Vec<u8>,
    pub(super) memory: &'a mut dyn GlobalMemory,
    pub(super) options: &'a Options,
    pub(super) constants: Vec<Lanes>,
    pub(super) warps: Vec<Warp>,
    pub(super) shared: Shared,
    pub(super) counts: Counts,
    pub(super) block_writes: BlockWrites,
    pub(super) block_number: u32,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_bytes: u32,
    barriers: Vec<Barrier>,
    random: u64,
    wide: bool,
}

/// What comes after an instruction.
enum Next {
    /// The one behind it.
    On,
    /// Lanes have moved or wait: the groups have to be looked at.
    Groups,
}

impl<'a> Grid<'a> {
    pub(super) fn new(
        kernel: &'a Kernel,
        launch: &Launch<'_>,
        globals: &[u64],
        memory: &'a mut dyn GlobalMemory,
        options: &'a Options,
    ) -> Result<Self, Fault> {
        let refuse = |reason: String| Fault { kernel: kernel.name.clone(), thread: None, line: 0, reason };
        let threads = launch.block.iter().map(|&extent| u64::from(extent)).product::<u64>();
        if !(1..=1024).contains(&threads) || launch.grid.contains(&0) {
            return Err(refuse(format!("a grid of {:?} blocks of {:?} threads cannot be launched", launch.grid, launch.block)));
        }
        if launch.parameters.len() < kernel.parameter_bytes() {
            let (given, needed) = (launch.parameters.len(), kernel.parameter_bytes());
            return Err(refuse(format!("{given} bytes of parameters are given, and the kernel has {needed}")));
        }
        let constant = |constant: &Constant| match *constant {
            Constant::Value(value) => Ok([value; 32]),
            Constant::Dynamic(offset) => Ok([offset as u64; 32]),
            Constant::Global(index, offset) => globals
                .get(index)
                .map(|address| [address.wrapping_add_signed(offset); 32])
                .ok_or_else(|| refuse(format!("no address is given for the module's variable {index}"))),
        };
        let constants = kernel.constants.iter().map(constant).collect::<Result<Vec<_>, _>>()?;
        let warps = threads.div_ceil(32) as usize;
        let shared_bytes = kernel.dynamic_shared_offset as usize + launch.dynamic_shared_bytes as usize;
        Ok(Self {
            kernel,
            parameters: launch.parameters.to_vec(),
            memory,
            options,
            constants,
            warps: (0..warps).map(|number| Warp::new(kernel, number as u32)).collect(),
            shared: Shared::new(shared_bytes, warps, kernel.granule_bytes),
            counts: Counts::default(),
            block_writes: BlockWrites::default(),
            block_number: 0,
            grid: launch.grid,
            block: launch.block,
            dynamic_bytes: launch.dynamic_shared_bytes,
            barriers: vec![Barrier::default(); BARRIERS],
            random: (options.seed ^ 0x9E37_79B9_7F4A_7C15).max(1),
            wide: has_wide(),
        })
    }

    /// Runs every block, in a shuffled order.
    pub(super) fn run(mut self) -> Result<Counts, Fault> {
        let blocks = self.grid.iter().map(|&extent| u64::from(extent)).product::<u64>();
        if blocks > u64::from(u32::MAX - 1) {
            return Err(self.fault(0, None, format!("{blocks} blocks are more than this emulation counts")));
        }
        // A walk with a step that has no factor in common visits every block once.
        let mut step = self.next_random() % blocks;
        while greatest_common_divisor(step, blocks) != 1 {
            step = (step + 1) % blocks.max(1);
            if blocks == 1 {
                break;
            }
        }
        let mut at = self.next_random() % blocks;
        for _ in 0..blocks {
            self.block_number = at as u32;
            self.run_block()?;
            at = (at + step) % blocks;
        }
        Ok(self.counts)
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// The index of a block by its number.
    pub(super) fn block_index(&self, number: u32) -> [u32; 3] {
        [number % self.grid[0], number / self.grid[0] % self.grid[1], number / self.grid[0] / self.grid[1]]
    }

    fn thread_index(&self, warp: u32, lane: usize) -> [u32; 3] {
        let number = warp * 32 + lane as u32;
        [number % self.block[0], number / self.block[0] % self.block[1], number / self.block[0] / self.block[1]]
    }

    fn fault(&self, line: u32, thread: Option<(u32, usize)>, reason: String) -> Fault {
        let thread = thread.map(|(warp, lane)| (self.block_index(self.block_number), self.thread_index(warp, lane)));
        Fault { kernel: self.kernel.name.clone(), thread, line, reason }
    }

    fn start_block(&mut self) {
        let threads = self.block.iter().product::<u32>();
        let block = self.block_index(self.block_number);
        let static_and_dynamic = self.shared.bytes.len() as u64;
        for number in 0..self.warps.len() as u32 {
            let mut special = [[0u64; 32]; FIRST_REGISTER as usize];
            let all = u64::from(u32::MAX);
            let bit = |lane: usize| 1u64 << lane;
            for (axis, values) in special.iter_mut().enumerate().take(3) {
                *values = std::array::from_fn(|lane| u64::from(self.thread_index(number, lane)[axis]));
            }
            special[12] = std::array::from_fn(|lane| lane as u64);
            special[15] = std::array::from_fn(bit);
            special[16] = std::array::from_fn(|lane| (bit(lane) << 1) - 1);
            special[17] = std::array::from_fn(|lane| bit(lane) - 1);
            special[18] = std::array::from_fn(|lane| all & !(bit(lane) - 1));
            special[19] = std::array::from_fn(|lane| all & !((bit(lane) << 1) - 1));
            for axis in 0..3 {
                special[3 + axis] = [u64::from(self.block[axis]); 32];
                special[6 + axis] = [u64::from(block[axis]); 32];
                special[9 + axis] = [u64::from(self.grid[axis]); 32];
            }
            special[13] = [u64::from(number); 32];
            special[14] = [self.warps.len() as u64; 32];
            special[20] = [u64::from(self.dynamic_bytes); 32];
            special[21] = [static_and_dynamic; 32];
            special[23] = [1; 32];
            let left = threads - 32 * number;
            let alive = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
            self.warps[number as usize].start(&special, alive);
        }
        self.shared.start();
        self.barriers.iter_mut().for_each(|barrier| *barrier = Barrier::default());
    }

    fn run_block(&mut self) -> Result<(), Fault> {
        self.start_block();
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            for place in (1..order.len()).rev() {
                order.swap(place, (self.next_random() % (place as u64 + 1)) as usize);
            }
            let mut moved = false;
            for &warp in &order {
                if self.warps[warp].next_group().is_some() {
                    moved = true;
                    self.run_warp(warp)?;
                }
            }
            let completed = self.complete_barriers()?;
            if !moved && !completed {
                if self.warps.iter().all(|warp| warp.groups.is_empty()) {
                    return Ok(());
                }
                if !self.release_warp_barriers() {
                    return Err(self.deadlock());
                }
            }
        }
    }

    /// Lets one warp go on until it waits, ends, or has had its turn.
    fn run_warp(&mut self, number: usize) -> Result<(), Fault> {
        let kernel = self.kernel;
        let turn = self.counts.instructions + TURN + self.next_random() % (4 * TURN);
        while self.counts.instructions < turn {
            self.warps[number].join();
            let Some(index) = self.warps[number].next_group() else { return Ok(()) };
            let Group { mut at, lanes: mask, .. } = self.warps[number].groups[index];
            // Up to here the group is the lowest one; another may wait there for this one to join.
            let others = self.warps[number].groups.iter().enumerate().filter(|(other, _)| *other != index);
            let limit = others.filter(|(_, group)| group.at > at).map(|(_, group)| group.at).min().unwrap_or(u32::MAX);
            let alone = self.warps[number].groups.len() == 1;
            loop {
                let instruction = &kernel.instructions[at as usize];
                self.counts.instructions += 1;
                let active = match instruction.condition {
                    None => mask,
                    Some(condition) => mask & self.warps[number].holds(condition),
                };
                let next = match &instruction.operation {
                    // The common way of a loop needs no look at the groups.
                    Operation::Branch { target } if alone && active == mask => {
                        at = *target;
                        if self.counts.instructions < turn {
                            continue;
                        }
                        self.warps[number].groups[index].at = at;
                        break;
                    }
                    operation if active != 0 => {
                        if compute(&mut self.warps[number], &self.constants, operation, active, self.wide) {
                            Next::On
                        } else {
                            let done = self.step(number, index, at, instruction, active);
                            done.map_err(|trouble| self.blame(number, instruction.line, active, trouble))?
                        }
                    }
                    _ => Next::On,
                };
                match next {
                    Next::Groups => break,
                    Next::On => at += 1,
                }
                if at >= limit || self.counts.instructions >= turn {
                    self.warps[number].groups[index].at = at;
                    break;
                }
            }
        }
        if self.counts.instructions >= self.options.instruction_budget {
            let at = self.warps[number].groups.first().map_or(0, |group| group.at);
            let line = self.line(at);
            let reason = format!("{} instructions have not ended the launch: a loop without an end", self.counts.instructions);
            return Err(self.fault(line, Some((number as u32, 0)), reason));
        }
        Ok(())
    }

    fn line(&self, at: u32) -> u32 {
        self.kernel.instructions.get(at as usize).map_or(0, |instruction| instruction.line)
    }

    fn blame(&self, warp: usize, line: u32, active: u32, trouble: Trouble) -> Fault {
        let lane = trouble.lane.unwrap_or(active.trailing_zeros() as usize % 32);
        self.fault(line, Some((self.warps[warp].number, lane)), trouble.reason)
    }

    /// An instruction that is more than arithmetic. `index` is the group that runs it, at `at`.
    fn step(&mut self, warp: usize, index: usize, at: u32, instruction: &Instruction, active: u32) -> Result<Next, Trouble> {
        let line = instruction.line;
        let access = |bytes: usize, kind: AccessKind| Access { warp, mask: active, line, bytes, kind };
        match &instruction.operation {
            Operation::Load { to, address, bytes, signed_width } => {
                let total = usize::from(*bytes) * usize::from(to.count);
                self.load(access(total, AccessKind::Read), *to, address, *signed_width)?;
            }
            Operation::Store { from, address, bytes } => {
                let total = usize::from(*bytes) * usize::from(from.count);
                self.store(access(total, AccessKind::Write), *from, address)?;
            }
            operation @ Operation::Atomic { element, .. } => {
                self.atomic(access(element.bytes() as usize, AccessKind::Atomic), operation)?;
            }
            Operation::CopyAsync { to, from, bytes, source_bytes } => {
                self.copy_async(access(usize::from(*bytes), AccessKind::Read), to, from, *source_bytes)?;
            }
            Operation::CommitCopies => lanes(active).for_each(|lane| self.warps[warp].batches[lane] += 1),
            Operation::WaitCopies { pending } => self.wait_copies(warp, active, *pending)?,
            Operation::Clock { to } => {
                let now = [self.counts.instructions; 32];
                self.warps[warp].write(*to, &now, active);
            }
            Operation::Trap => return Err(Trouble::any("trap: the kernel gave up")),
            Operation::Assert => return Err(Trouble::any("an assertion of the kernel failed")),
            _ => return self.step_groups(warp, index, at, instruction, active),
        }
        Ok(Next::On)
    }

    /// An instruction that moves lanes, or that lanes do together.
    fn step_groups(
        &mut self,
        warp: usize,
        index: usize,
        at: u32,
        instruction: &Instruction,
        active: u32,
    ) -> Result<Next, Trouble> {
        let mask = self.warps[warp].groups[index].lanes;
        match &instruction.operation {
            Operation::Branch { target } => {
                self.split(warp, index, at + 1, &[(*target, active)], mask & !active);
                return Ok(Next::Groups);
            }
            Operation::BranchTable { index: register, targets } => {
                let values = *self.warps[warp].read(&self.constants, *register);
                let mut moves: Vec<(u32, u32)> = Vec::new();
                for lane in lanes(active) {
                    let target = targets.get(values[lane] as u32 as usize).copied();
                    let reason = || format!("brx.idx with {} of {} targets", values[lane] as u32, targets.len());
                    let target = target.ok_or_else(|| Trouble::of(lane, reason()))?;
                    match moves.iter_mut().find(|(other, _)| *other == target) {
                        Some((_, lanes)) => *lanes |= 1 << lane,
                        None => moves.push((target, 1 << lane)),
                    }
                }
                self.split(warp, index, at + 1, &moves, mask & !active);
                return Ok(Next::Groups);
            }
            Operation::Exit => {
                self.exit(warp, index, at, active);
                return Ok(Next::Groups);
            }
            _ if active != mask => {
                // Lanes whose condition does not hold go on by themselves.
                self.split(warp, index, at + 1, &[(at, active)], mask & !active);
                return Ok(Next::Groups);
            }
            Operation::Barrier { kind, id, count, aligned } => {
                self.arrive(warp, index, at, *kind, (*id, *count, *aligned))?;
                return Ok(Next::Groups);
            }
            _ => {}
        }
        self.step_together(warp, index, at, instruction, active)
    }

    fn step_together(
        &mut self,
        warp: usize,
        index: usize,
        at: u32,
        instruction: &Instruction,
        active: u32,
    ) -> Result<Next, Trouble> {
        let alive = self.warps[warp].alive;
        if let Some((register, name)) = members(&instruction.operation) {
            let values = *self.warps[warp].read(&self.constants, register);
            let wanted = values[active.trailing_zeros() as usize] as u32;
            if let Some(lane) = lanes(active).find(|&lane| values[lane] as u32 != wanted) {
                let reason =
                    format!("{name} with mask {:#010x}, while other lanes here have {wanted:#010x}", values[lane] as u32);
                return Err(Trouble::of(lane, reason));
            }
            if active & !wanted != 0 {
                let lane = (active & !wanted).trailing_zeros() as usize;
                return Err(Trouble::of(lane, format!("{name} by a lane that is not in its mask {wanted:#010x}")));
            }
            if wanted & alive & !active != 0 {
                return Ok(self.wait(warp, index, at, Wait::Lanes(wanted)));
            }
            let meets = matches!(instruction.operation, Operation::WarpBarrier { .. }) || !self.options.strict_warps;
            together(&mut self.warps[warp], &self.constants, &instruction.operation, active);
            if meets {
                self.shared.meet(warp, active, alive);
            }
            return Ok(Next::On);
        }
        // What is left are the aligned instructions on matrices, which all 32 lanes do.
        if alive != u32::MAX {
            let reason = format!("an instruction that takes 32 lanes, of which {} have ended or never were", alive.count_zeros());
            return Err(Trouble::any(reason));
        }
        if active != alive {
            return Ok(self.wait(warp, index, at, Wait::Lanes(u32::MAX)));
        }
        match &instruction.operation {
            Operation::MatrixProduct(product) => {
                multiply(&mut self.warps[warp], &self.constants, product, self.wide);
                if !self.options.strict_warps {
                    self.shared.meet(warp, active, alive);
                }
            }
            Operation::LoadMatrix { to, address, transposed } => {
                self.matrix_move(warp, instruction.line, *to, address, *transposed, AccessKind::Read)?;
            }
            Operation::StoreMatrix { from, address, transposed } => {
                self.matrix_move(warp, instruction.line, *from, address, *transposed, AccessKind::Write)?;
            }
            other => return Err(Trouble::any(format!("{other:?} cannot be run"))),
        }
        Ok(Next::On)
    }

    fn wait(&mut self, warp: usize, index: usize, at: u32, wait: Wait) -> Next {
        let group = &mut self.warps[warp].groups[index];
        group.at = at;
        group.wait = wait;
        Next::Groups
    }

    /// Replaces a group by those that moved and the lanes that go on behind the instruction.
    fn split(&mut self, warp: usize, index: usize, behind: u32, moves: &[(u32, u32)], rest: u32) {
        let groups = &mut self.warps[warp].groups;
        groups.swap_remove(index);
        for &(at, lanes) in moves.iter().chain(&[(behind, rest)]) {
            if lanes != 0 {
                groups.push(Group { at, lanes, wait: Wait::Ready });
            }
        }
    }

    fn exit(&mut self, warp: usize, index: usize, at: u32, active: u32) {
        let mask = self.warps[warp].groups[index].lanes;
        self.split(warp, index, at + 1, &[], mask & !active);
        self.warps[warp].alive &= !active;
        self.warps[warp].look_again();
    }

    fn arrive(
        &mut self,
        warp: usize,
        index: usize,
        at: u32,
        kind: BarrierKind,
        (id, count, aligned): (Register, Option<Register>, bool),
    ) -> Result<(), Trouble> {
        let mask = self.warps[warp].groups[index].lanes;
        let alive = self.warps[warp].alive;
        let uniform = |register: Register| {
            let values = self.warps[warp].read(&self.constants, register);
            let first = values[mask.trailing_zeros() as usize] as u32;
            let other = lanes(mask).find(|&lane| values[lane] as u32 != first);
            other.map_or(Ok(first), |lane| Err(Trouble::of(lane, "lanes of a warp arrive at different barriers")))
        };
        let id = uniform(id)?;
        let count = count.map(uniform).transpose()?;
        if id as usize >= BARRIERS || count.is_some_and(|count| count == 0 || count % 32 != 0) {
            return Err(Trouble::any(format!("there is no barrier {id} for {count:?} threads")));
        }
        if aligned && mask != alive {
            // The other lanes may still come; if none can, it is a deadlock that says so.
            self.wait(warp, index, at, Wait::Lanes(alive));
            return Ok(());
        }
        let (warps, condition) = (self.warps.len(), condition_of(kind).map(|condition| self.warps[warp].holds(condition)));
        let barrier = &mut self.barriers[id as usize];
        if !barrier.used {
            *barrier = Barrier { arrived: vec![0; warps], used: true, count, holds_in_all: true, ..Barrier::default() };
        }
        if barrier.count != count {
            return Err(Trouble::any(format!(
                "barrier {id} for {count:?} threads, while others wait there for {:?}",
                barrier.count
            )));
        }
        barrier.arrived[warp] |= mask;
        barrier.threads += if aligned { 32 } else { mask.count_ones() };
        if let Some(holds) = condition {
            barrier.holding += (holds & mask).count_ones();
            barrier.holds_in_all &= holds & mask == mask;
        }
        self.shared.pass_on(warp, &mut barrier.clock);
        if kind == BarrierKind::Arrive {
            self.warps[warp].groups[index].at = at + 1;
        } else {
            self.wait(warp, index, at, Wait::Barrier(id));
        }
        Ok(())
    }

    /// Lets those go on who wait at a barrier that is complete; says whether there was one.
    fn complete_barriers(&mut self) -> Result<bool, Fault> {
        let mut any = false;
        for id in 0..BARRIERS {
            let barrier = &self.barriers[id];
            let complete = barrier.used
                && match barrier.count {
                    Some(count) => barrier.threads >= count,
                    None => self.warps.iter().zip(&barrier.arrived).all(|(warp, arrived)| warp.alive & !arrived == 0),
                };
            if complete {
                any = true;
                self.complete(id);
            }
        }
        Ok(any)
    }

    fn complete(&mut self, id: usize) {
        let barrier = std::mem::take(&mut self.barriers[id]);
        let kernel = self.kernel;
        for number in 0..self.warps.len() {
            let warp = &mut self.warps[number];
            let mut waited = false;
            for index in 0..warp.groups.len() {
                let Group { at, lanes: mask, wait } = warp.groups[index];
                if wait != Wait::Barrier(id as u32) {
                    continue;
                }
                waited = true;
                if let Operation::Barrier { kind, .. } = &kernel.instructions[at as usize].operation {
                    match *kind {
                        BarrierKind::Count { to, .. } => warp.write(to, &[u64::from(barrier.holding); 32], mask),
                        BarrierKind::All { to, .. } => {
                            warp.write_predicate(to, if barrier.holds_in_all { u32::MAX } else { 0 }, mask)
                        }
                        BarrierKind::Any { to, .. } => {
                            warp.write_predicate(to, if barrier.holding > 0 { u32::MAX } else { 0 }, mask)
                        }
                        BarrierKind::Sync | BarrierKind::Arrive => {}
                    }
                }
                warp.groups[index] = Group { at: at + 1, lanes: mask, wait: Wait::Ready };
            }
            if waited {
                self.shared.learn(number, &barrier.clock);
            }
        }
    }

    /// Lanes may meet at `bar.warp.sync` instructions in different places; says whether some did.
    fn release_warp_barriers(&mut self) -> bool {
        let kernel = self.kernel;
        let mut any = false;
        for number in 0..self.warps.len() {
            let warp = &mut self.warps[number];
            let is_barrier =
                |group: &Group| matches!(kernel.instructions[group.at as usize].operation, Operation::WarpBarrier { .. });
            let Some(members) = warp.groups.iter().find_map(|group| match group.wait {
                Wait::Lanes(members) if is_barrier(group) => Some(members),
                _ => None,
            }) else {
                continue;
            };
            let meets = |group: &Group| group.wait == Wait::Lanes(members) && is_barrier(group);
            let here = warp.groups.iter().filter(|group| meets(group)).fold(0, |lanes, group| lanes | group.lanes);
            if members & warp.alive & !here != 0 {
                continue;
            }
            for group in warp.groups.iter_mut().filter(|group| meets(group)) {
                *group = Group { at: group.at + 1, lanes: group.lanes, wait: Wait::Ready };
            }
            self.shared.meet(number, here, self.warps[number].alive);
            any = true;
        }
        any
    }

    /// Why no warp can go on.
    fn deadlock(&self) -> Fault {
        for warp in &self.warps {
            for group in &warp.groups {
                if let Wait::Lanes(members) = group.wait {
                    let wanted = members & warp.alive;
                    let others: Vec<String> = warp
                        .groups
                        .iter()
                        .filter(|other| *other != group)
                        .map(|other| format!("lanes {:#010x} at line {}", other.lanes, self.line(other.at)))
                        .collect();
                    let reason = format!(
                        "{} of {} lanes arrived (mask {members:#010x}); the others never come: {}",
                        group.lanes.count_ones(),
                        wanted.count_ones(),
                        others.join(", ")
                    );
                    return self.fault(self.line(group.at), Some((warp.number, group.lanes.trailing_zeros() as usize)), reason);
                }
            }
        }
        let mut waiting: Vec<(u32, u32, u32)> = Vec::new();
        for group in self.warps.iter().flat_map(|warp| &warp.groups) {
            let Wait::Barrier(id) = group.wait else { continue };
            match waiting.iter_mut().find(|(other, at, _)| *other == id && *at == group.at) {
                Some((_, _, threads)) => *threads += group.lanes.count_ones(),
                None => waiting.push((id, group.at, group.lanes.count_ones())),
            }
        }
        let places: Vec<String> = waiting
            .iter()
            .map(|&(id, at, threads)| format!("{threads} threads wait at barrier {id} (line {})", self.line(at)))
            .collect();
        let line = waiting.first().map_or(0, |&(_, at, _)| self.line(at));
        let first = self.warps.iter().find(|warp| !warp.groups.is_empty());
        let thread = first.map(|warp| (warp.number, warp.groups[0].lanes.trailing_zeros() as usize));
        self.fault(line, thread, format!("no warp can go on: {}", places.join(", ")))
    }
}

fn condition_of(kind: BarrierKind) -> Option<Condition> {
    match kind {
        BarrierKind::Sync | BarrierKind::Arrive => None,
        BarrierKind::Count { condition, .. } | BarrierKind::All { condition, .. } | BarrierKind::Any { condition, .. } => {
            Some(condition)
        }
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
