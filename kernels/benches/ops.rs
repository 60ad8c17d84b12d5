//! What the operations beside matrix products and attention cost, per token of a MiniLM-like model, on one thread.
//!
//! `taskset -c 1 cargo bench -p kernels --bench ops`. Each figure is the shortest of many runs, so that other load on the
//! machine matters little; data come from the second-level cache, as they do in a model. The last part is what a team of
//! two threads costs for nothing.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use kernels::activation::Activation;
use kernels::aligned::Aligned;
use kernels::embed::{Ids, Lookup, TableType, embed};
use kernels::gate::gate;
use kernels::isa::Isa;
use kernels::norm::{Norm, norm};
use kernels::pool::{PoolSpec, Pooling, normalize, pool};
use kernels::rotary::{Pairs, Rotary, rotary};
use kernels::team::Team;

const TOKENS: usize = 128;
const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1536;
const LAYERS: f64 = 6.0;
const WORDS: usize = 30_522;
const HEADS: (usize, usize) = (12, 32);
/// How long each operation is repeated.
const PATIENCE: Duration = Duration::from_millis(200);

/// The shortest of many runs, in nanoseconds.
fn shortest(mut run: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut shortest = Duration::MAX;
    while begun.elapsed() < PATIENCE {
        let start = Instant::now();
        run();
        shortest = shortest.min(start.elapsed());
    }
    shortest.as_secs_f64() * 1e9
}

/// One line: what it costs per token, which is returned, and per number of the result.
fn report(name: &str, numbers_per_token: usize, run: impl FnMut()) -> f64 {
    let token = shortest(run) / TOKENS as f64;
    println!("  {name:<34} {token:>9.1} ns/token {:>8.3} ns/number", token / numbers_per_token as f64);
    token
}

/// Numbers that start on a cache line, as those of a plan's arena do.
struct Values(Aligned);

impl Deref for Values {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0.as_slice()
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

fn values(count: usize) -> Values {
    let mut values = Values(Aligned::zeroed(count * size_of::<f32>()));
    values.iter_mut().enumerate().for_each(|(index, value)| *value = ((index * 7919) % 2003) as f32 / 400.0 - 2.5);
    values
}

/// Returns what GELU costs with reading and writing its numbers: more than where a matrix product ends.
fn activations(team: &Team) -> f64 {
    let input = values(TOKENS * 2 * INTERMEDIATE);
    let mut output = values(TOKENS * INTERMEDIATE);
    let mut measure = |activation| {
        report(&format!("gate of {INTERMEDIATE} with {activation:?}"), INTERMEDIATE, || {
            gate(team, black_box(&input), INTERMEDIATE, activation, black_box(&mut output));
        })
    };
    for activation in [Activation::Identity, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Tanh] {
        measure(activation);
    }
    measure(Activation::Gelu)
}

/// Returns what normalization of a sum costs.
fn rows(team: &Team) -> f64 {
    let (input, residual) = (values(TOKENS * HIDDEN), values(TOKENS * HIDDEN));
    let mut output = values(TOKENS * HIDDEN);
    let (weight, bias) = (values(HIDDEN), values(HIDDEN));
    let spec = Norm { weight: &weight, bias: Some(&bias), eps: 1e-12 };
    let cost = report("norm with residual", HIDDEN, || norm(team, black_box(&input), Some(&residual), &spec, &mut output));
    report("norm", HIDDEN, || norm(team, black_box(&input), None, &spec, &mut output));

    let positions: Vec<u32> = (0..TOKENS as u32).collect();
    for pairs in [Pairs::Halves, Pairs::Adjacent] {
        let table = Rotary::new(512, HEADS.1, 10_000.0, pairs);
        report(&format!("rotary {pairs:?}, one of q and k"), HIDDEN, || {
            rotary(team, black_box(&mut output), HIDDEN, HEADS, &positions, &table);
        });
    }
    cost
}

/// Returns what pooling by the mean and normalization cost.
fn sequences(team: &Team) -> f64 {
    let hidden = values(TOKENS * HIDDEN);
    let lengths = [5, 12, 40, 71];
    let starts = [0, 5, 17, 57];
    let sequences: Vec<_> = starts.iter().zip(lengths).map(|(start, length)| *start..start + length).collect();
    let columns: Vec<u32> = lengths.iter().flat_map(|length| 0..*length as u32).collect();
    let mut output = values(sequences.len() * HIDDEN);
    let mut measure = |mode| {
        let spec = PoolSpec { modes: vec![mode], normalize: false };
        report(&format!("pool {mode:?}, 4 texts"), HIDDEN, || {
            pool(team, black_box(&hidden), HIDDEN, &sequences, &columns, &spec, black_box(&mut output));
        })
    };
    for mode in [Pooling::Cls, Pooling::Max, Pooling::WeightedMean] {
        measure(mode);
    }
    let mean = measure(Pooling::Mean);
    mean + report("normalize, 4 texts", HIDDEN, || normalize(team, black_box(&mut output), HIDDEN))
}

/// Returns what lookup in tables of f32 costs.
fn lookups(team: &Team) -> f64 {
    let mut costs = Vec::new();
    for (dtype, name) in [(TableType::F32, "f32"), (TableType::F16, "f16"), (TableType::Bf16, "bf16")] {
        // Every number is 1, or a small one of two bytes; what it is does not matter.
        let words = [0u8, 0, 0x80, 0x3f].repeat(WORDS * HIDDEN * dtype.size() / 4);
        let places = vec![0u8; 512 * HIDDEN * dtype.size()];
        let ids: Vec<u32> = (0..TOKENS).map(|token| (token * 7919 % WORDS) as u32).collect();
        let positions: Vec<u32> = (0..TOKENS as u32).collect();
        let tables = [
            Lookup { bytes: &words, dtype, ids: Ids::Each(&ids) },
            Lookup { bytes: &places, dtype, ids: Ids::Each(&positions) },
            Lookup { bytes: &places, dtype, ids: Ids::All(0) },
        ];
        let mut output = values(TOKENS * HIDDEN);
        report(&format!("embed, 3 tables of {name}, cached"), HIDDEN, || embed(team, &tables, HIDDEN, black_box(&mut output)));
        // Every run has other words, so that their vectors come from memory as in real texts.
        let mut round = 0;
        let mut ids = ids.clone();
        let cost = report(&format!("embed, 3 tables of {name}, memory"), HIDDEN, || {
            round += 1;
            ids.iter_mut().enumerate().for_each(|(token, id)| *id = ((token + TOKENS * round) * 7919 % WORDS) as u32);
            let tables = [Lookup { ids: Ids::Each(&ids), ..tables[0] }, tables[1], tables[2]];
            embed(team, &tables, HIDDEN, black_box(&mut output));
        });
        costs.push(cost);
    }
    costs[0]
}

fn teams() {
    let Ok(team) = Team::new("bench", NonZeroUsize::MIN.saturating_add(1), 0) else {
        println!("two threads cannot be started");
        return;
    };
    println!("nothing, with two threads:");
    println!("  {:<34} {:>9.1} us", "from outside", shortest(|| team.run(|_, _| ())) / 1e3);
    println!("  {:<34} {:>9.1} us", "entered", team.enter(|| shortest(|| team.run(|_, _| ()))) / 1e3);
}

fn main() {
    for isa in Isa::available().filter(|isa| *isa != Isa::Avx512) {
        let team = Team::single(0).with_isa(isa);
        println!("{isa:?}, {TOKENS} tokens:");
        let (gelu, norm, pool, embed) = (activations(&team), rows(&team), sequences(&team), lookups(&team));
        let layer = gelu + 2.0 * norm;
        println!("  a layer of MiniLM: {layer:.0} ns/token beside matrix products and attention");
        println!("  all of MiniLM: {:.0} ns/token beside them", LAYERS * layer + norm + embed + pool);
    }
    teams();
}
