//! Attention: both kernels, over lengths around the sizes of their tiles, and what must not change a row's bits.

use std::ops::Range;

use super::Check;
use super::trial::{self, Outcome, Tensor};
use crate::attention::cuda::{DeviceBias, DeviceHeads, DeviceSpans, attention, uses_tensor_cores};
use crate::attention::{Bias, Disentangled, Heads, Span, Spec, twin};
use crate::cuda::{DeviceError, DeviceType, Stream};

/// Which positions a trial has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Distance { reach: usize },
    Disentangled { keys: bool, queries: bool, reach: usize },
}

/// What a comparison is of.
#[derive(Debug, Clone)]
struct Trial {
    dtype: DeviceType,
    spec: Spec,
    kind: Kind,
    /// Queries and keys of every span.
    lengths: Vec<(usize, usize)>,
    /// About how large products of a query and a key get.
    size: f32,
    /// Whether rows and parts begin where accesses of 16 bytes may.
    aligned: bool,
    /// Whether all queries are one row.
    probe: bool,
    /// Whether the values are in memory of their own, with rows of another width.
    split: bool,
    /// Whether a query has a number that is none.
    poisoned: bool,
    /// What the launch's bounds on lengths and spans have beyond what is there.
    slack: usize,
}

/// A trial's numbers on the host, as the device will see them.
struct Numbers {
    input: Vec<f32>,
    stride: usize,
    offsets: [usize; 3],
    spans: Vec<Span>,
    table: Vec<f32>,
    position_keys: Vec<f32>,
    position_queries: Vec<f32>,
    rows: Vec<u32>,
}

/// The same on the device.
struct Placed {
    input: Tensor,
    /// The values alone.
    values: Tensor,
    table: Tensor,
    position_keys: Tensor,
    position_queries: Tensor,
    rows: Tensor,
}

impl Trial {
    fn new(dtype: DeviceType, heads: usize, head_size: usize, lengths: &[(usize, usize)]) -> Self {
        let scale = 1.0 / (head_size as f32).sqrt();
        Trial {
            dtype,
            spec: Spec { heads, head_size, scale, causal: false, window: None },
            kind: Kind::None,
            lengths: lengths.to_vec(),
            size: 3.0,
            aligned: true,
            probe: false,
            split: false,
            poisoned: false,
            slack: 0,
        }
    }

    fn seeing(self, causal: bool, window: Option<usize>) -> Self {
        Trial { spec: Spec { causal, window, ..self.spec }, ..self }
    }

    fn width(&self) -> usize {
        self.spec.heads * self.spec.head_size
    }

    /// Numbers from row to row where the values are in memory of their own.
    fn values_stride(&self) -> usize {
        self.width().next_multiple_of(8) + if self.aligned { 8 } else { 1 }
    }

    /// Whether the contract puts it on tensor cores.
    fn is_fused(&self) -> bool {
        let positions = matches!(self.kind, Kind::Disentangled { .. });
        self.dtype != DeviceType::F32 && self.aligned && !positions && matches!(self.spec.head_size, 32 | 64 | 96 | 128)
    }

    /// Spans have a row between them that belongs to none.
    fn spans(&self) -> Vec<Span> {
        let mut row = 1;
        let place = |&(queries, keys): &(usize, usize)| {
            let span = Span { queries: row..row + queries, keys: row..row + keys };
            row += queries.max(keys) + 1;
            span
        };
        self.lengths.iter().map(place).collect()
    }

    fn rows(&self) -> usize {
        self.lengths.iter().map(|(queries, keys)| queries.max(keys) + 1).sum::<usize>() + 1
    }

    fn numbers(&self) -> Numbers {
        let (width, rows) = (self.width(), self.rows());
        let (stride, start) = if self.aligned { ((3 * width).next_multiple_of(8), 0) } else { (3 * width + 5, 2) };
        let mut input = trial::numbers(width as u64, rows * stride);
        // Products of numbers from -1 to 1 have a standard deviation of a third.
        let factor = (3.0 * self.size / (self.spec.head_size as f32).sqrt() / self.spec.scale.abs()).sqrt();
        for row in input.chunks_mut(stride) {
            row[start..start + 2 * width].iter_mut().for_each(|x| *x *= factor);
        }
        let spans = self.spans();
        if self.poisoned {
            let span = spans.iter().max_by_key(|span| span.queries.len()).expect("a trial has spans");
            input[(span.queries.start + span.queries.len() / 2) * stride + start + 1] = f32::NAN;
        }
        let reach = match self.kind {
            Kind::None => 0,
            Kind::Distance { reach } | Kind::Disentangled { reach, .. } => reach,
        };
        let buckets = reach / 2 + 1;
        let vectors = |seed| trial::rounded(self.dtype, &trial::numbers(seed, 2 * buckets * width));
        Numbers {
            input: trial::rounded(self.dtype, &input),
            stride,
            offsets: [start, start + width, start + 2 * width],
            spans,
            table: trial::numbers(2, self.spec.heads * (2 * reach + 1)),
            position_keys: vectors(3),
            position_queries: vectors(4),
            rows: (0..=2 * reach).map(|index| (index * 2 * buckets / (2 * reach + 1)) as u32).collect(),
        }
    }

    /// Runs the kernel for some of the spans; the output, of which other rows must stay as they are.
    fn launch(
        &self,
        stream: &Stream,
        numbers: &Numbers,
        placed: &Placed,
        spans: &[Span],
        slack: usize,
    ) -> Result<Tensor, DeviceError> {
        let output = Tensor::output(stream, self.dtype, self.rows() * self.width(), usize::from(!self.aligned))?;
        let mut list: Vec<u32> = Vec::new();
        for span in spans {
            list.extend([span.queries.start, span.queries.end, span.keys.start, span.keys.end].map(|row| row as u32));
        }
        // Spans that pad a batch.
        list.extend(std::iter::repeat_n(self.rows() as u32, 4 * slack));
        let on_device = Tensor::indices(stream, &list)?;
        let longest = |length: fn(&Span) -> usize| spans.iter().map(length).max().unwrap_or(0) + slack;
        let device_spans = DeviceSpans {
            spans: on_device.view(),
            count: spans.len() + slack,
            longest_queries: longest(|span| span.queries.len()),
            longest_keys: longest(|span| span.keys.len()),
        };
        let mut parts = numbers.offsets.map(|offset| DeviceHeads { values: placed.input.view(), stride: numbers.stride, offset });
        if self.probe {
            parts[0].stride = 0;
        }
        if self.split {
            parts[2] = DeviceHeads { values: placed.values.view(), stride: self.values_stride(), offset: 0 };
        }
        let bias = match self.kind {
            Kind::None => DeviceBias::None,
            Kind::Distance { reach } => DeviceBias::Distance { table: placed.table.view(), reach },
            Kind::Disentangled { keys, queries, .. } => DeviceBias::Disentangled {
                keys: keys.then(|| placed.position_keys.view()),
                queries: queries.then(|| placed.position_queries.view()),
                rows: placed.rows.view(),
            },
        };
        attention(stream, parts, &device_spans, &self.spec, bias, output.view())?;
        // What the launch reads lives until it is done.
        stream.synchronize()?;
        let fused = uses_tensor_cores(parts, &self.spec, bias, output.view());
        assert_eq!(fused, self.is_fused(), "a trial runs on the kernel that it is for");
        Ok(output)
    }

    fn place(&self, stream: &Stream, numbers: &Numbers) -> Result<Placed, DeviceError> {
        let odd = usize::from(!self.aligned);
        // What lies between the heads of two rows is no number.
        let mut values = vec![f32::NAN; self.rows() * self.values_stride()];
        for (to, from) in values.chunks_mut(self.values_stride()).zip(numbers.input.chunks(numbers.stride)) {
            to[..self.width()].copy_from_slice(&from[numbers.offsets[2]..][..self.width()]);
        }
        Ok(Placed {
            input: Tensor::new(stream, self.dtype, &numbers.input, odd)?,
            values: Tensor::new(stream, self.dtype, &values, odd)?,
            table: Tensor::new(stream, DeviceType::F32, &numbers.table, odd)?,
            position_keys: Tensor::new(stream, self.dtype, &numbers.position_keys, odd)?,
            position_queries: Tensor::new(stream, self.dtype, &numbers.position_queries, odd)?,
            rows: Tensor::indices(stream, &numbers.rows)?,
        })
    }

    /// Compares with the specification.
    fn against_twin(&self, stream: &Stream) -> Result<Outcome, DeviceError> {
        let numbers = self.numbers();
        let placed = self.place(stream, &numbers)?;
        let output = self.launch(stream, &numbers, &placed, &numbers.spans, self.slack)?;
        // Rows of no span keep what they had.
        let untouched = Tensor::output(stream, self.dtype, self.rows() * self.width(), 0)?;
        let mut want = untouched.read(stream)?;
        let tolerances = self.specify(&numbers, &mut want);
        output.compare(stream, &want, |index, _| tolerances[index])
    }

    /// The specification's output and the contract's tolerances.
    fn specify(&self, numbers: &Numbers, want: &mut [f64]) -> Vec<f64> {
        let (spec, width, stride) = (&self.spec, self.width(), numbers.stride);
        // The specification knows no shared row, so it is given one for every query.
        let shared: Vec<f32> = (0..self.rows()).flat_map(|_| &numbers.input[..stride]).copied().collect();
        let queries = if self.probe { &shared } else { &numbers.input };
        let heads = |values, offset| Heads { values, stride, offset };
        let [query, key, value] = numbers.offsets;
        let parts = [heads(queries, query), heads(&numbers.input, key), heads(&numbers.input, value)];
        let bias = match self.kind {
            Kind::None => Bias::None,
            Kind::Distance { reach } => Bias::Distance { table: &numbers.table, reach },
            Kind::Disentangled { keys, queries, .. } => Bias::Disentangled(Disentangled {
                keys: keys.then_some(&numbers.position_keys),
                queries: queries.then_some(&numbers.position_queries),
                rows: &numbers.rows,
            }),
        };
        twin::attention(parts, &numbers.spans, spec, bias, want);
        let mut tolerances = vec![0.0; want.len()];
        for span in &numbers.spans {
            for head in 0..spec.heads {
                let score = twin::largest_score([parts[0], parts[1]], span, head, spec, bias);
                let values = span.keys.clone().flat_map(|row| twin::part(parts[2], spec, row, head));
                let value = f64::from(values.fold(0.0f32, |largest, x| largest.max(x.abs())));
                let rounding = if self.dtype == DeviceType::F32 { 0.0 } else { 2.0 * trial::rounding(self.dtype, 1.0) };
                let tolerance = (4e-6 * score.max(1.0) + rounding) * value;
                for row in span.queries.clone() {
                    tolerances[row * width + head * spec.head_size..][..spec.head_size].fill(tolerance);
                }
            }
        }
        tolerances
    }

    /// Compares every span of a batch with the span alone, bit for bit.
    fn against_alone(&self, stream: &Stream) -> Result<Outcome, DeviceError> {
        let numbers = self.numbers();
        let placed = self.place(stream, &numbers)?;
        let whole = self.launch(stream, &numbers, &placed, &numbers.spans, self.slack)?.read(stream)?;
        let mut outcome = Outcome::default();
        for span in &numbers.spans {
            let alone = self.launch(stream, &numbers, &placed, std::slice::from_ref(span), 0)?.read(stream)?;
            let rows: Range<usize> = span.queries.start * self.width()..span.queries.end * self.width();
            outcome = outcome.and(Outcome::compare(&alone[rows.clone()], &whole[rows], |_, _| 0.0));
        }
        Ok(outcome)
    }

    fn shape(&self) -> String {
        let Trial { spec, kind, lengths, .. } = self;
        let kernel = if self.is_fused() { "fused" } else { "general" };
        let mut text = format!("{kernel} {}x{}", spec.heads, spec.head_size);
        let lengths: Vec<_> = lengths.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}/{b}") }).collect();
        text += &format!(" spans {}", lengths.join("+"));
        let mut add = |condition: bool, what: String| {
            if condition {
                text += &format!(", {what}");
            }
        };
        add(spec.causal, "causal".to_owned());
        add(spec.window.is_some(), format!("window {}", spec.window.unwrap_or(0)));
        add(*kind != Kind::None, format!("{kind:?}"));
        add(self.size != 3.0, format!("scores of {}", self.size));
        add(!self.aligned, "unaligned".to_owned());
        add(self.probe, "one query for all".to_owned());
        add(self.split, "values apart".to_owned());
        add(self.poisoned, "a NaN in a query".to_owned());
        add(self.slack > 0, format!("bounds {} too large", self.slack));
        text
    }

    fn check(self) -> Check {
        Check::new("attention", self.dtype, self.shape(), move |stream| self.against_twin(stream))
    }

    fn check_alone(self) -> Check {
        Check::new("attention", self.dtype, format!("{}, batch and alone", self.shape()), move |stream| {
            self.against_alone(stream)
        })
    }
}

/// Spans that attend to themselves.
fn square(lengths: &[usize]) -> Vec<(usize, usize)> {
    lengths.iter().map(|length| (*length, *length)).collect()
}

/// All comparisons of attention.
pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for dtype in [DeviceType::F16, DeviceType::Bf16] {
        for head_size in [32, 64, 96, 128] {
            fused(dtype, head_size, &mut checks);
        }
    }
    for dtype in trial::REAL {
        general(dtype, &mut checks);
    }
    checks
}

/// The fused kernel: lengths around its tiles of 16, 32 and 64, and everything that bounds what a query sees.
fn fused(dtype: DeviceType, head_size: usize, checks: &mut Vec<Check>) {
    let trial = |lengths: &[(usize, usize)]| Trial::new(dtype, 2, head_size, lengths);
    let mixed = square(&[1, 2, 15, 16, 17, 0, 63, 64, 65, 127, 128, 129]);
    let short = square(&[1, 2, 7, 15, 0, 16, 17, 31, 32]);
    let crossed = [(20, 130), (130, 20), (1, 65), (40, 0), (0, 40), (33, 64)];
    let several = square(&[5, 64, 33, 130]);
    let distance = |reach| Kind::Distance { reach };
    let trials = [
        trial(&mixed),
        Trial { slack: 3, ..trial(&mixed) },
        trial(&short),
        trial(&[(300, 300)]),
        trial(&[(7, 200), (32, 129), (1, 300)]),
        trial(&crossed),
        trial(&several).seeing(true, None),
        trial(&short).seeing(true, None),
        trial(&several).seeing(false, Some(5)),
        trial(&[(300, 300)]).seeing(false, Some(64)),
        trial(&several).seeing(true, Some(20)),
        trial(&crossed).seeing(false, Some(3)),
        trial(&several).seeing(false, Some(0)),
        Trial { kind: distance(10), ..trial(&several) },
        Trial { kind: distance(400), ..trial(&[(150, 300), (20, 20)]) },
        Trial { kind: distance(0), ..trial(&short) },
        Trial { kind: distance(31), ..trial(&several).seeing(true, Some(40)) },
        Trial { probe: true, ..trial(&[(1, 197), (1, 3), (1, 64)]) },
        Trial { split: true, ..trial(&several) },
        Trial { size: 400.0, ..trial(&several) },
        Trial { size: 400.0, kind: distance(12), ..trial(&several).seeing(true, None) },
        Trial { poisoned: true, ..trial(&several) },
    ];
    checks.extend(trials.map(Trial::check));
    let alone = [
        Trial { slack: 5, ..trial(&several) },
        trial(&square(&[17, 32, 129])).seeing(true, None),
        Trial { kind: distance(9), ..trial(&square(&[3, 70, 130])).seeing(false, Some(21)) },
    ];
    checks.extend(alone.map(Trial::check_alone));
}

/// The general kernel: any head size, all positions, any alignment.
fn general(dtype: DeviceType, checks: &mut Vec<Check>) {
    // Heads that the fused kernel would take are unaligned.
    let trial = |head_size: usize, lengths: &[(usize, usize)]| {
        let aligned = dtype == DeviceType::F32 || !matches!(head_size, 32 | 64 | 96 | 128);
        Trial { aligned, ..Trial::new(dtype, 2, head_size, lengths) }
    };
    let mixed = square(&[1, 2, 31, 0, 32, 33, 64, 65]);
    let crossed = [(20, 70), (70, 20), (1, 65), (40, 0), (0, 40)];
    let positions = |keys, queries, reach| Kind::Disentangled { keys, queries, reach };
    for head_size in [1, 5, 31, 32, 33, 64, 80, 100, 128, 129, 160, 256] {
        checks.push(trial(head_size, &square(&[1, 33, 40])).check());
        checks.push(Trial { kind: positions(true, true, 20), ..trial(head_size, &square(&[3, 45])) }.check());
    }
    let trials = [
        trial(64, &mixed),
        trial(32, &[(300, 300)]),
        trial(64, &crossed),
        Trial { aligned: false, slack: 3, ..trial(72, &mixed) },
        trial(64, &mixed).seeing(true, None),
        trial(64, &mixed).seeing(false, Some(5)),
        trial(64, &crossed).seeing(false, Some(3)),
        trial(64, &mixed).seeing(true, Some(7)),
        Trial { kind: Kind::Distance { reach: 10 }, ..trial(64, &mixed) },
        Trial { kind: Kind::Distance { reach: 40 }, ..trial(40, &mixed).seeing(true, Some(20)) },
        Trial { kind: positions(true, false, 30), ..trial(64, &mixed) },
        Trial { kind: positions(false, true, 30), ..trial(64, &mixed) },
        Trial { kind: positions(false, false, 3), ..trial(64, &mixed) },
        Trial { kind: positions(true, true, 200), ..trial(64, &[(150, 150)]) },
        Trial { kind: positions(true, true, 0), ..trial(64, &crossed) },
        Trial { kind: positions(true, true, 9), aligned: false, ..trial(24, &mixed).seeing(true, None) },
        Trial { probe: true, ..trial(72, &[(1, 197), (1, 3)]) },
        Trial { split: true, ..trial(64, &mixed) },
        Trial { size: 400.0, ..trial(64, &mixed) },
        Trial { poisoned: true, ..trial(64, &mixed) },
    ];
    checks.extend(trials.map(Trial::check));
    let mut negative = trial(64, &mixed);
    negative.spec.scale = -0.3;
    checks.push(negative.check());
    let alone = [
        Trial { slack: 5, ..trial(64, &square(&[3, 40, 70])) },
        Trial { kind: positions(true, true, 15), ..trial(64, &square(&[17, 50])) },
    ];
    checks.extend(alone.map(Trial::check_alone));
}
