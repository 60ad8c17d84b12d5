//! Compiled kernels without one of their barriers or waits: each is found.

use super::{Arguments, Memory, Options, Shape, kernel, launch, line, numbers};

/// The text, and a copy without each barrier and wait of a kernel in turn, with what is missing.
fn mutants(text: &str, name: &str) -> Vec<(String, String)> {
    let start = text.find(&format!(".entry {name}(")).expect("the kernel is there");
    let end = start + text[start..].find("\n}\n").expect("it ends");
    let waits = ["bar.sync", "bar.warp.sync", "cp.async.wait"];
    let mut at = start;
    let mut found = Vec::new();
    for line in text[start..end].split_inclusive('\n') {
        if waits.iter().any(|wait| line.contains(wait)) {
            let without = format!("{};\n{}", &text[..at], &text[at + line.len()..]);
            found.push((line.trim().to_owned(), without));
        }
        at += line.len();
    }
    found
}

/// Runs a kernel of a text over memory that `fill` makes; the fault's text.
fn run(text: &str, name: &str, shape: &Shape, fill: &dyn Fn(&mut Memory) -> Arguments) -> Result<(), String> {
    let (_, kernel) = kernel(text, name);
    let mut memory = Memory::default();
    let arguments = fill(&mut memory);
    // Matrix products would count as meetings of a warp's lanes otherwise.
    let options = Options { strict_warps: true, ..Options::default() };
    let ran = launch(&mut memory, &kernel, &[], shape, &arguments, &options);
    ran.map(|_| ()).map_err(|fault| fault.to_string())
}

#[track_caller]
fn all_found(text: &str, name: &str, count: usize, shape: &Shape, fill: &dyn Fn(&mut Memory) -> Arguments) {
    assert_eq!(run(text, name, shape, fill), Ok(()));
    let mutants = mutants(text, name);
    assert_eq!(mutants.len(), count);
    for (missing, text) in mutants {
        let reason = run(&text, name, shape, fill).expect_err(&missing);
        assert!(reason.contains("a race") || reason.contains("has not been waited for"), "without {missing}: {reason}");
    }
}

#[test]
fn a_product_needs_each_of_its_waits() {
    let text = include_str!("../../../tests/fixtures/tensor.ptx");
    all_found(text, "product", 4, &line(1, 32), &|memory| {
        let halves = |count: usize| vec![0x3C; 2 * count];
        let (a, b, c) = (memory.add(&halves(16 * 80)), memory.add(&halves(8 * 80)), memory.floats(&[0.0; 128]));
        Arguments::default().pointer(c).pointer(a).pointer(b).word(80)
    });
}

#[test]
fn sums_and_counts_need_each_of_their_barriers() {
    let text = include_str!("../../../tests/fixtures/basic.ptx");
    all_found(text, "row_norm", 1, &line(2, 160), &|memory| {
        let (x, out) = (memory.floats(&numbers(2000, 1)), memory.floats(&[0.0; 2]));
        Arguments::default().pointer(out).pointer(x).word(1000)
    });
    all_found(text, "histogram", 2, &Shape { dynamic: 1024, ..line(2, 96) }, &|memory| {
        let (bins, values) = (memory.words(&[0; 256]), memory.add(&(0..=255).rev().collect::<Vec<u8>>()));
        Arguments::default().pointer(bins).pointer(values).word(256)
    });
}
