//! Planted bugs, each of which the interpreter finds.

use super::{Arguments, Memory, Options, Shape, kernel, launch, line};

/// A kernel `k` with a pointer `%rd1` to a buffer of 64 words, the thread's number in `%r1` and its shared word in `%r2`.
fn text(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_param_0)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<40>; .reg .b64 %rd<9>; .reg .f32 %f<9>;\n\
         .shared .align 16 .b8 words[512];\n\
         ld.param.u64 %rd1, [k_param_0]; cvta.to.global.u64 %rd1, %rd1; mov.u32 %r1, %tid.x;\n\
         mov.u32 %r2, words; mad.lo.s32 %r2, %r1, 4, %r2;\n{body}\nret;\n}}\n"
    )
}

/// Runs a body in blocks of a shape; the buffer afterwards, or why it failed.
fn run_shape(body: &str, shape: &Shape, options: &Options) -> Result<Vec<u32>, String> {
    let (_, kernel) = kernel(&text(body), "k");
    let mut memory = Memory::default();
    let buffer = memory.words(&[7; 64]);
    let ran = launch(&mut memory, &kernel, &[], shape, &Arguments::default().pointer(buffer), options);
    ran.map(|_| memory.read_words(buffer)).map_err(|fault| fault.to_string())
}

fn run(body: &str, threads: u32) -> Result<Vec<u32>, String> {
    run_shape(body, &line(1, threads), &Options::default())
}

#[track_caller]
fn fails(body: &str, threads: u32, with: &str) {
    // Whatever the order of warps: the watch does not depend on it.
    for seed in 0..6 {
        let options = Options { seed, instruction_budget: 100_000, ..Options::default() };
        let reason = run_shape(body, &line(1, threads), &options).expect_err("the bug is found");
        assert!(reason.contains(with), "{reason}");
        assert!(reason.starts_with("kernel 'k', PTX line "), "{reason}");
    }
}

const NEIGHBOR: &str = "xor.b32 %r3, %r1, 32; mov.u32 %r4, words; mad.lo.s32 %r4, %r3, 4, %r4;";

#[test]
fn a_missing_block_barrier() {
    let body = |barrier: &str| {
        format!(
            "{NEIGHBOR} st.shared.u32 [%r2], %r1; {barrier} ld.shared.u32 %r5, [%r4];\n\
             mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r5;"
        )
    };
    let expected: Vec<u32> = (0..64).map(|thread| thread ^ 32).collect();
    assert_eq!(run(&body("bar.sync 0;"), 64), Ok(expected.clone()));
    assert_eq!(run(&body("barrier.sync 3, 64;"), 64), Ok(expected));
    fails(&body(""), 64, "a race: shared memory at offset");
    // The lanes of one warp are together, but not the warps.
    fails(&body("bar.warp.sync 0xffffffff;"), 64, "no barrier is in between");
    // A barrier for one warp orders nothing between two.
    fails(&body("shr.u32 %r6, %r1, 5; barrier.sync %r6, 32;"), 64, "a race");
}

#[test]
fn a_write_over_what_others_read() {
    let body = |barrier: &str| {
        format!("{NEIGHBOR} st.shared.u32 [%r2], %r1; bar.sync 0; ld.shared.u32 %r5, [%r4]; {barrier} st.shared.u32 [%r2], %r5;")
    };
    run(&body("bar.sync 0;"), 64).expect("two barriers are enough");
    fails(&body(""), 64, "a race");
}

#[test]
fn a_missing_warp_barrier() {
    let body = |barrier: &str| {
        format!(
            "xor.b32 %r3, %r1, 1; mov.u32 %r4, words; mad.lo.s32 %r4, %r3, 4, %r4; st.shared.u32 [%r2], %r1; {barrier}\n\
             ld.shared.u32 %r5, [%r4]; mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r5;"
        )
    };
    assert_eq!(run(&body("bar.warp.sync 0xffffffff;"), 32).map(|words| words[5]), Ok(4));
    fails(&body(""), 32, "a race");
    let shuffle = "shfl.sync.bfly.b32 %r9, %r1, 1, 31, 0xffffffff;";
    run(&body(shuffle), 32).expect("a shuffle brings lanes together");
    let strict = Options { strict_warps: true, ..Options::default() };
    let reason = run_shape(&body(shuffle), &line(1, 32), &strict).expect_err("but promises no order of memory");
    assert!(reason.contains("a race"), "{reason}");
    // Half of a warp that is together knows nothing of the other half.
    let half = "setp.lt.u32 %p1, %r1, 16; @%p1 bar.warp.sync 0xffff; @!%p1 bar.warp.sync 0xffff0000;";
    run(&body(half), 32).expect("pairs are in one half");
    fails(&body("setp.lt.u32 %p1, %r1, 16; @%p1 bar.warp.sync 0xffff;"), 32, "a race");
}

#[test]
fn two_lanes_that_write_one_word() {
    fails("and.b32 %r3, %r2, 0xfffffff7; st.shared.u32 [%r3], %r1;", 32, "is written, but lane");
}

#[test]
fn atomics_race_only_with_others() {
    let start = "setp.eq.u32 %p1, %r1, 0; mov.u32 %r3, words; @%p1 st.shared.u32 [%r3], 0;";
    let sum = "red.shared.add.u32 [%r3], %r1;";
    let read = "@%p1 ld.shared.u32 %r4, [%r3]; @%p1 st.global.u32 [%rd1], %r4;";
    assert_eq!(run(&format!("{start} bar.sync 0; {sum} bar.sync 0; {read}"), 64).map(|words| words[0]), Ok(2016));
    fails(&format!("{start} {sum}"), 64, "a race");
    fails(&format!("{start} bar.sync 0; {sum} {read}"), 64, "a race");
}

#[test]
fn unaligned_and_outside() {
    fails("ld.global.u32 %r3, [%rd1+256];", 32, "outside every allocation");
    fails("ld.global.u32 %r3, [%rd1+-4];", 1, "outside every allocation");
    // The last thread alone is outside, though its neighbors are asked for with it.
    fails("mad.wide.u32 %rd2, %r1, 8, %rd1; ld.global.v2.u32 {%r3, %r4}, [%rd2+8];", 32, "thread [31, 0, 0]: 8 bytes");
    fails("ld.global.u32 %r3, [%rd1+2];", 32, "is not aligned to an access of 4 bytes");
    fails("ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%rd1+8];", 32, "is not aligned to an access of 16 bytes");
    fails("st.shared.u32 [%r2+512], %r1;", 32, "outside the 512 bytes of shared memory");
    fails("ld.shared.u16 %rs1, [%r2+1];", 32, "not aligned");
    fails("st.shared.v4.u32 [%r2], {%r1, %r1, %r1, %r1};", 32, "not aligned");
    fails("mov.u64 %rd3, 64; ld.param.u64 %rd4, [%rd3];", 32, "of the parameters");
    fails("ld.u32 %r3, [12];", 32, "0xc are outside every allocation");
}

#[test]
fn shared_memory_starts_as_nothing_useful() {
    let words =
        run("mad.wide.u32 %rd2, %r1, 4, %rd1; ld.shared.u32 %r3, [%r2]; st.global.u32 [%rd2], %r3;", 64).expect("it runs");
    assert!(words.iter().all(|word| f32::from_bits(*word).is_nan()));
}

#[test]
fn lanes_that_do_not_meet() {
    let apart =
        "setp.lt.u32 %p1, %r1, 20; @%p1 bra LOW; bar.sync 0; bra END; LOW: shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0xffffffff; END:";
    fails(apart, 32, "20 of 32 lanes arrived");
    fails("setp.lt.u32 %p1, %r1, 20; @%p1 vote.sync.any.pred %p2, %p1, 0xffffffff; bar.sync 0;", 32, "20 of 32 lanes arrived");
    fails("shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0xff;", 32, "not in its mask 0x000000ff");
    fails("shfl.sync.bfly.b32 %r3, %r1, 1, 31, %r1;", 32, "while other lanes here have");
    // Lanes that have ended are not waited for.
    run("setp.lt.u32 %p1, %r1, 20; @%p1 exit; bar.warp.sync 0xffffffff; bar.sync 0;", 64).expect("it runs");
    // Different places, but the same mask.
    let places = "setp.lt.u32 %p1, %r1, 20; @%p1 bra LOW; bar.warp.sync 0xffffffff; bra END; LOW: bar.warp.sync 0xffffffff; END:";
    run(places, 32).expect("it runs");
}

#[test]
fn barriers_that_not_all_reach() {
    // Half of a warp at one barrier, half at another instruction of the same: not allowed for the aligned one.
    let halves = |barrier: &str| format!("setp.lt.u32 %p1, %r1, 16; @%p1 bra LOW; {barrier} bra END; LOW: {barrier} END:");
    fails(&halves("bar.sync 0;"), 32, "16 of 32 lanes arrived");
    run(&halves("barrier.sync 0;"), 32).expect("this one is for each thread");
    fails("setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 0; @!%p1 bar.sync 1;", 64, "no warp can go on: 32 threads wait at barrier");
    fails("setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 0, 64; @!%p1 bar.sync 0, 32;", 64, "barrier 0 for Some(");
    run("setp.lt.u32 %p1, %r1, 32; @%p1 exit; bar.sync 0;", 64).expect("threads that ended count as there");
    fails("setp.lt.u32 %p1, %r1, 32; @%p1 exit; bar.sync 0, 64;", 64, "no warp can go on");
}

#[test]
fn barriers_that_count_and_that_only_arrive() {
    let count = "and.b32 %r3, %r1, 3; setp.eq.u32 %p1, %r3, 0; bar.red.popc.u32 %r4, 0, %p1;\n\
                 bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, %p1; selp.u32 %r5, 100, 200, %p2; selp.u32 %r6, 1000, 2000, %p3;\n\
                 add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6; mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r4;";
    assert_eq!(run(count, 64), Ok(vec![16 + 200 + 1000; 64]));
    // The first warp writes and arrives; the second one waits and reads.
    let hand = |arrive: &str| {
        format!(
            "setp.lt.u32 %p1, %r1, 32; @%p1 bra FIRST; bar.sync 1, 64; ld.shared.u32 %r5, [%r2+-128]; bra END;\n\
             FIRST: st.shared.u32 [%r2], %r1; {arrive} END:"
        )
    };
    run(&hand("bar.arrive 1, 64;"), 64).expect("it runs");
    fails(&hand("bar.arrive 1, 64; st.shared.u32 [%r2], %r1;"), 64, "a race");
}

#[test]
fn copies_that_are_not_waited_for() {
    let body = |wait: &str, barrier: &str| {
        format!(
            "mad.wide.u32 %rd2, %r1, 4, %rd1; cp.async.ca.shared.global [%r2], [%rd2], 4; cp.async.commit_group;\n\
             cp.async.ca.shared.global [%r2+256], [%rd2], 4; cp.async.commit_group; {wait} {barrier}\n\
             {NEIGHBOR} ld.shared.u32 %r5, [%r4]; add.u32 %r5, %r5, %r1; bar.sync 0; st.global.u32 [%rd2], %r5; cp.async.wait_all;"
        )
    };
    let expected: Vec<u32> = (0..64).map(|thread| thread + 7).collect();
    assert_eq!(run(&body("cp.async.wait_group 1;", "bar.sync 0;"), 64), Ok(expected.clone()));
    assert_eq!(run(&body("cp.async.wait_all;", "bar.sync 0;"), 64), Ok(expected));
    fails(&body("", "bar.sync 0;"), 64, "has not been waited for");
    fails(&body("cp.async.wait_group 2;", "bar.sync 0;"), 64, "has not been waited for");
    // What is waited for is there for its own thread, and for others only after a barrier.
    let reason = run(&body("cp.async.wait_group 1;", ""), 64).expect_err("the bug is found");
    assert!(reason.contains("a race") || reason.contains("not been waited for"), "{reason}");
    // Bytes beyond the source's are zeros.
    let zeros = "mad.wide.u32 %rd2, %r1, 4, %rd1; mov.u32 %r3, 2; cp.async.ca.shared.global [%r2], [%rd2], 4, %r3;\n\
                 cp.async.wait_all; ld.shared.u32 %r5, [%r2]; st.global.u32 [%rd2], %r5;";
    assert_eq!(run(&zeros.replace("%r3, 2", "%r3, 0"), 64), Ok(vec![0; 64]));
    assert_eq!(run(zeros, 64), Ok(vec![7; 64]));
    fails(&zeros.replace("%r3, 2", "%r3, 5"), 64, "told to read 5");
}

#[test]
fn blocks_that_write_the_same_word() {
    let shape = line(2, 32);
    let body = "mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r1;";
    let reason = run_shape(body, &shape, &Options::default()).expect_err("both blocks write there");
    assert!(reason.contains("wrote in the same launch"), "{reason}");
    let lax = Options { watch_blocks: false, ..Options::default() };
    run_shape(body, &shape, &lax).expect("nobody watches");
    let apart =
        "mov.u32 %r3, %ctaid.x; mad.lo.u32 %r3, %r3, 32, %r1; mad.wide.u32 %rd2, %r3, 4, %rd1; st.global.u32 [%rd2], %r3;";
    assert_eq!(run_shape(apart, &shape, &Options::default()), Ok((0..64).collect()));
    let sum = run_shape("red.global.add.u32 [%rd1], %r1;", &shape, &Options::default()).expect("atomics may meet");
    assert_eq!(sum[0], 7 + 2 * 496);
}

#[test]
fn loops_without_an_end_and_traps() {
    fails("HERE: bra HERE;", 32, "a loop without an end");
    fails("setp.eq.u32 %p1, %r1, 40; @%p1 trap;", 64, "thread [40, 0, 0]: trap");
    fails("TABLE: .branchtargets A, B; brx.idx %r1, TABLE; A: B:", 32, "brx.idx with 2 of 2 targets");
    // Two warps that wait for each other in turns make progress.
    let spin = "mov.u32 %r3, words; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r3], 0; bar.sync 0;\n\
                setp.eq.u32 %p2, %r1, 32; @%p2 atom.shared.exch.b32 %r4, [%r3], 1; @!%p1 bra END;\n\
                AGAIN: atom.shared.add.u32 %r4, [%r3], 0; setp.eq.u32 %p3, %r4, 0; @%p3 bra AGAIN; END:";
    run(spin, 64).expect("it ends");
}

#[test]
fn launches_that_cannot_be() {
    let reason = run_shape("", &line(1, 2048), &Options::default()).expect_err("too many threads");
    assert!(reason.contains("cannot be launched"), "{reason}");
    let (_, kernel) = kernel(&text(""), "k");
    let fault = launch(&mut Memory::default(), &kernel, &[], &line(1, 1), &Arguments::default(), &Options::default());
    assert!(fault.expect_err("no parameters").reason.contains("the kernel has 8"));
}
