//! Each family of instructions, by hand-written texts against plain computations.

use half::{bf16, f16};

use super::{Arguments, Memory, Options, kernel, launch, line};

/// Runs a body in one warp, with the words of `input` in `%rdN`, `%rN` and `%rsN` from 1 on; the body leaves its result in
/// one of `%rd0`, `%r0`, `%rs0` and `%p0`. What lanes leave.
fn lanes(body: &str, input: &[u64]) -> Vec<u64> {
    let mut loads = String::new();
    for place in 1..=input.len() {
        let at = 8 * (place - 1);
        loads += &format!(
            "ld.global.u64 %rd{place}, [%rd10+{at}]; ld.global.u32 %r{place}, [%rd10+{at}]; ld.global.u16 %rs{place}, [%rd10+{at}];\n"
        );
    }
    let text = format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b)\n{{\n\
         .reg .pred %p<6>; .reg .b16 %rs<12>; .reg .b32 %r<12>; .reg .b64 %rd<20>; .shared .align 16 .b8 words[256];\n\
         ld.param.u64 %rd10, [a]; ld.param.u64 %rd11, [b]; mov.u32 %r11, %laneid; mad.wide.u32 %rd11, %r11, 8, %rd11;\n\
         mov.b64 %rd0, 0; mov.b32 %r0, 0; mov.b16 %rs0, 0; setp.ne.u32 %p0, %r11, %r11;\n{loads}{body}\n\
         cvt.u64.u32 %rd12, %r0; cvt.u64.u16 %rd13, %rs0; selp.u64 %rd14, 1, 0, %p0;\n\
         add.u64 %rd0, %rd0, %rd12; add.u64 %rd0, %rd0, %rd13; add.u64 %rd0, %rd0, %rd14; st.global.u64 [%rd11], %rd0; ret;\n}}\n"
    );
    let (_, kernel) = kernel(&text, "k");
    let mut memory = Memory::default();
    let words: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).chain([0; 8]).collect();
    let (a, b) = (memory.add(&words), memory.add(&[0; 256]));
    let arguments = Arguments::default().pointer(a).pointer(b);
    launch(&mut memory, &kernel, &[], &line(1, 32), &arguments, &Options::default())
        .unwrap_or_else(|fault| panic!("{body}: {fault}"));
    memory.bytes(b).chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect()
}

#[track_caller]
fn gives(body: &str, input: &[u64], expected: u64) {
    let found = lanes(body, input);
    assert!(found.iter().all(|word| *word == expected), "{body} of {input:x?}: {:#x}, and {expected:#x} was expected", found[0]);
}

fn w(value: i32) -> u64 {
    u64::from(value as u32)
}

fn l(value: i64) -> u64 {
    value as u64
}

fn s(value: i16) -> u64 {
    u64::from(value as u16)
}

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

fn h(value: f32) -> u64 {
    u64::from(f16::from_f32(value).to_bits())
}

fn g(value: f32) -> u64 {
    u64::from(bf16::from_f32(value).to_bits())
}

#[test]
fn integers() {
    let pairs =
        [(7i64, -3i64), (-1, 1), (i64::MIN, -1), (0x1234_5678_9ABC_DEF0, 0x0FED_CBA9_8765_4321), (-77, 5), (40_000, 60_000)];
    for (a, b) in pairs {
        let (x, y, i, j) = (a as i32, b as i32, a as i16, b as i16);
        let (u, v) = (x as u32, y as u32);
        let input = [l(a), l(b), 11];
        let two = |opcode: &str, class: &str, expected: u64| {
            gives(&format!("{opcode} %{class}0, %{class}1, %{class}2;"), &input, expected)
        };
        let three = |opcode: &str, class: &str, expected: u64| {
            gives(&format!("{opcode} %{class}0, %{class}1, %{class}2, %{class}3;"), &input, expected);
        };
        two("add.s16", "rs", s(i.wrapping_add(j)));
        two("sub.s32", "r", w(x.wrapping_sub(y)));
        two("add.s64", "rd", l(a.wrapping_add(b)));
        two("add.sat.s32", "r", w(x.saturating_add(y)));
        two("mul.lo.s16", "rs", s(i.wrapping_mul(j)));
        two("mul.lo.s32", "r", w(x.wrapping_mul(y)));
        two("mul.lo.u64", "rd", l(a.wrapping_mul(b)));
        two("mul.hi.s32", "r", w(((i64::from(x) * i64::from(y)) >> 32) as i32));
        two("mul.hi.u32", "r", (u64::from(u) * u64::from(v)) >> 32);
        two("mul.hi.s64", "rd", ((i128::from(a) * i128::from(b)) >> 64) as u64);
        two("mul.hi.u64", "rd", ((u128::from(l(a)) * u128::from(l(b))) >> 64) as u64);
        gives("mul.wide.s32 %rd0, %r1, %r2;", &input, l(i64::from(x) * i64::from(y)));
        gives("mul.wide.u16 %r0, %rs1, %rs2;", &input, u64::from(i as u16) * u64::from(j as u16));
        gives("mad.wide.s32 %rd0, %r1, %r2, %rd3;", &input, l(i64::from(x) * i64::from(y) + 11));
        three("mad.lo.s32", "r", w(x.wrapping_mul(y).wrapping_add(11)));
        three("mad.hi.u32", "r", u64::from(((u64::from(u) * u64::from(v)) >> 32) as u32 + 11));
        two("div.s32", "r", w(x.wrapping_div(y)));
        two("rem.s32", "r", w(x.wrapping_rem(y)));
        two("div.u64", "rd", l(a) / l(b));
        two("rem.s64", "rd", l(a.wrapping_rem(b)));
        two("min.s32", "r", w(x.min(y)));
        two("max.u32", "r", u64::from(u.max(v)));
        two("min.s16", "rs", s(i.min(j)));
        two("max.s64", "rd", l(a.max(b)));
        two("xor.b32", "r", u64::from(u ^ v));
        two("and.b64", "rd", l(a & b));
        three("sad.s32", "r", u64::from(x.abs_diff(y).wrapping_add(11)));
        gives("neg.s32 %r0, %r1;", &input, w(x.wrapping_neg()));
        gives("abs.s64 %rd0, %rd1;", &input, l(a.wrapping_abs()));
        gives("not.b16 %rs0, %rs1;", &input, s(!i));
        gives("popc.b64 %r0, %rd1;", &input, u64::from(a.count_ones()));
        gives("clz.b32 %r0, %r1;", &input, u64::from(x.leading_zeros()));
        gives("brev.b32 %r0, %r1;", &input, w(x.reverse_bits()));
    }
}

#[test]
fn shifts_and_bits() {
    gives("shl.b32 %r0, %r1, 4;", &[0xF000_0001], 0x10);
    gives("shl.b32 %r0, %r1, %r2;", &[1, 40], 0);
    gives("shr.s32 %r0, %r1, %r2;", &[w(-5), 40], w(-1));
    gives("shr.u32 %r0, %r1, 4;", &[w(-1)], 0x0FFF_FFFF);
    gives("shr.s64 %rd0, %rd1, %r2;", &[l(-256), 4], l(-16));
    gives("shl.b64 %rd0, %rd1, %r2;", &[3, 64], 0);
    gives("shr.u16 %rs0, %rs1, 4;", &[0xFFFF], 0x0FFF);
    gives("bfe.u32 %r0, %r1, 8, 8;", &[0x1234_5678], 0x56);
    gives("bfe.s32 %r0, %r1, 8, 4;", &[0x0000_0F00], w(-1));
    gives("bfe.s32 %r0, %r1, 28, 10;", &[0x8000_0000], w(-8));
    gives("bfe.u64 %rd0, %rd1, 32, 16;", &[0x1234_5678_9ABC_DEF0], 0x5678);
    gives("bfi.b32 %r0, %r1, %r2, 8, 8;", &[0xAB, 0x1111_1111], 0x1111_AB11);
    gives("bfi.b64 %rd0, %rd1, %rd2, 60, 8;", &[0xAB, 0], 0xB000_0000_0000_0000);
    gives("bfind.u32 %r0, %r1;", &[0x0001_0000], 16);
    gives("bfind.s32 %r0, %r1;", &[w(-1)], 0xFFFF_FFFF);
    gives("bfind.shiftamt.u32 %r0, %r1;", &[1], 31);
    gives("prmt.b32 %r0, %r1, %r2, 0x7240;", &[0x3322_1100, 0x7766_5544], 0x7722_4400);
    gives("prmt.b32 %r0, %r1, %r2, 0x8088;", &[0x80, 0], 0xFF80_FFFF);
    // a ^ b ^ c, and the majority.
    gives("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", &[0b1100, 0b1010, 0b1001], 0b1111);
    gives("lop3.b32 %r0, %r1, %r2, %r3, 0xE8;", &[0b1100, 0b1010, 0b1001], 0b1000);
    gives("lop3.b32 %r0, %r1, %r2, %r3, 0x40;", &[0b1100, 0b1010, 0b1001], 0);
    gives("shf.l.wrap.b32 %r0, %r1, %r2, 8;", &[0xAABB_CCDD, 0x1122_3344], 0x2233_44AA);
    gives("shf.r.wrap.b32 %r0, %r1, %r2, 8;", &[0xAABB_CCDD, 0x1122_3344], 0x44AA_BBCC);
    gives("shf.l.clamp.b32 %r0, %r1, %r2, 40;", &[0xAABB_CCDD, 0x1122_3344], 0xAABB_CCDD);
    gives("shf.r.clamp.b32 %r0, %r1, %r2, 40;", &[0xAABB_CCDD, 0x1122_3344], 0x1122_3344);
    gives("dp4a.s32.s32 %r0, %r1, %r2, %r3;", &[0xFF02_03FE, 0x0102_0304, 100], w(100 - 1 + 4 + 9 - 8));
    gives("dp4a.u32.s32 %r0, %r1, %r2, %r3;", &[0xFF00_0001, 0xFF00_0002, 5], w(5 - 255 + 2));
    gives("mov.b64 %rd0, {%r1, %r2};", &[1, 2], 0x2_0000_0001);
    gives("mov.b64 {_, %r0}, %rd1;", &[0x7_0000_0001], 7);
    gives("mov.b32 {%rs4, %rs5}, %r1; mov.b32 %r0, {%rs5, %rs4};", &[0x1234_5678], 0x5678_1234);
    gives("cnot.b32 %r0, %r1;", &[0], 1);
    gives("{ .reg .b32 %r1; mov.u32 %r1, 9; add.u32 %r0, %r1, 1; } add.u32 %r0, %r0, %r1;", &[5], 15);
}

#[test]
fn carries() {
    // 128-bit sums, differences and products, out of halves.
    let (a, b) = (0xFFFF_FFFF_0000_0001u64, 0x0000_0001_FFFF_FFFFu64);
    let input = [a & 0xFFFF_FFFF, a >> 32, b & 0xFFFF_FFFF, b >> 32];
    gives("add.cc.u32 %r5, %r1, %r3; addc.cc.u32 %r6, %r2, %r4; addc.u32 %r0, 0, 0;", &input, 1);
    gives("add.cc.u32 %r5, %r1, %r3; addc.cc.u32 %r6, %r2, %r4; mov.b64 %rd0, {%r5, %r6};", &input, a.wrapping_add(b));
    gives("sub.cc.u32 %r5, %r1, %r3; subc.u32 %r6, %r2, %r4; mov.b64 %rd0, {%r5, %r6};", &input, a - b);
    gives(
        "mul.lo.u32 %r5, %r1, %r3; mul.hi.u32 %r6, %r1, %r3; mad.lo.cc.u32 %r6, %r2, %r3, %r6; madc.hi.u32 %r7, %r2, %r3, 0;\n\
         mov.b64 %rd5, {%r6, %r7}; mov.b64 %rd0, {%r5, %r6};",
        &input,
        (a as u128 * (b & 0xFFFF_FFFF) as u128) as u64,
    );
    gives("mad.lo.cc.u32 %r6, %r1, %r2, %r3; madc.hi.u32 %r0, %r1, %r2, 0;", &[0xFFFF_FFFF, 2, 2], 2);
}

#[test]
fn floats() {
    for (a, b, c) in
        [(1.5f32, -2.25f32, 0.1f32), (1e30, 1e-30, 3.0), (-0.0, 0.0, 1.0), (3.7, 0.3, -1e-9), (f32::INFINITY, 2.0, 1.0)]
    {
        let input = [f(a), f(b), f(c)];
        gives("add.f32 %r0, %r1, %r2;", &input, f(a + b));
        gives("sub.rn.f32 %r0, %r1, %r2;", &input, f(a - b));
        gives("mul.f32 %r0, %r1, %r2;", &input, f(a * b));
        gives("fma.rn.f32 %r0, %r1, %r2, %r3;", &input, f(a.mul_add(b, c)));
        gives("neg.f32 %r0, %r1;", &input, f(-a));
        gives("abs.f32 %r0, %r2;", &input, f(b.abs()));
        gives("rcp.rn.f32 %r0, %r3;", &input, f(1.0 / c));
        gives("sqrt.rn.f32 %r0, %r1; abs.f32 %r0, %r3; sqrt.rn.f32 %r0, %r0;", &input, f(c.abs().sqrt()));
        gives("div.rn.f32 %r0, %r1, %r3;", &input, f(a / c));
        gives(
            "fma.rn.f64 %rd0, %rd1, %rd2, %rd3;",
            &[d(a.into()), d(b.into()), d(c.into())],
            d(f64::from(a).mul_add(b.into(), c.into())),
        );
    }
    gives("add.sat.f32 %r0, %r1, %r2;", &[f(0.7), f(0.8)], f(1.0));
    gives("fma.rn.sat.f32 %r0, %r1, %r2, %r1;", &[f(-0.7), f(0.8)], f(0.0));
    gives("add.sat.f32 %r0, %r1, %r1;", &[f(f32::NAN)], f(0.0));
    gives("mul.ftz.f32 %r0, %r1, %r2;", &[f(1e-30), f(-1e-10)], f(-0.0));
    gives("mul.f32 %r0, %r1, %r2;", &[f(1e-30), f(-1e-10)], f(1e-30 * -1e-10));
    gives("add.ftz.f32 %r0, %r1, %r2;", &[f(1e-40), f(0.0)], f(0.0));
    let nan = f(f32::NAN);
    gives("min.f32 %r0, %r1, %r2;", &[nan, f(2.0)], f(2.0));
    gives("max.f32 %r0, %r1, %r2;", &[f(2.0), nan], f(2.0));
    gives("min.NaN.f32 %r0, %r1, %r2;", &[f(2.0), nan], 0x7FFF_FFFF);
    gives("max.f32 %r0, %r1, %r2;", &[f(-0.0), f(0.0)], f(0.0));
    gives("min.f32 %r0, %r1, %r2;", &[f(0.0), f(-0.0)], f(-0.0));
    gives("copysign.f32 %r0, %r1, %r2;", &[f(-1.0), f(5.0)], f(-5.0));
    gives("ex2.approx.ftz.f32 %r0, %r1;", &[f(-3.0)], f(0.125));
    gives("lg2.approx.f32 %r0, %r1;", &[f(32.0)], f(5.0));
    gives("rsqrt.approx.f32 %r0, %r1;", &[f(16.0)], f(0.25));
    gives("add.f32 %r0, %r1, 0f3F800000;", &[f(2.0)], f(3.0));
    gives("add.f32 %r0, %r1, 0.5;", &[f(2.0)], f(2.5));
    gives("add.f64 %rd0, %rd1, 0d3FF0000000000000;", &[d(2.0)], d(3.0));
    // One unit in the last place, whichever way it goes.
    let up = f32::from_bits(1.0f32.to_bits() + 1);
    gives("add.rp.f32 %r0, %r1, %r2;", &[f(1.0), f(1e-20)], f(up));
    gives("add.rz.f32 %r0, %r1, %r2;", &[f(-1.0), f(1e-20)], f(-f32::from_bits(1.0f32.to_bits() - 1)));
    gives("fma.rm.f32 %r0, %r1, %r2, %r3;", &[f(1.0), f(1.0), f(1e-20)], f(1.0));
}

#[test]
fn comparisons() {
    let p = |relation: &str, a: u64, b: u64, expected: bool| {
        gives(&format!("setp.{relation} %p0, %r1, %r2;"), &[a, b], expected.into())
    };
    p("lt.s32", w(-1), w(1), true);
    p("lt.u32", w(-1), w(1), false);
    p("hs.u32", w(-1), w(1), true);
    p("ne.b32", 3, 3, false);
    p("ge.f32", f(1.0), f(1.0), true);
    for (relation, expected) in
        [("lt", false), ("ltu", true), ("eq", false), ("ne", false), ("neu", true), ("num", false), ("nan", true)]
    {
        p(&format!("{relation}.f32"), f(f32::NAN), f(1.0), expected);
    }
    gives("setp.lt.s16 %p0, %rs1, %rs2;", &[s(-1), s(1)], 1);
    gives("setp.lt.s64 %p0, %rd1, %rd2;", &[l(-1), 1], 1);
    gives("setp.gt.f64 %p0, %rd1, %rd2;", &[d(2.0), d(1.0)], 1);
    gives("setp.gt.f16 %p0, %rs1, %rs2;", &[h(2.0), h(-1.0)], 1);
    gives("setp.eq.u32 %p1, %r1, 5; setp.lt.and.s32 %p0, %r2, 9, %p1;", &[5, 8], 1);
    gives("setp.eq.u32 %p1, %r1, 5; setp.lt.or.s32 %p0|%p2, %r2, 9, !%p1;", &[5, 8], 1);
    gives("setp.lt.s32 %p1|%p0, %r1, 9;", &[8], 0);
    gives("setp.eq.u32 %p1, %r1, 5; not.pred %p2, %p1; or.pred %p3, %p1, %p2; and.pred %p0, %p3, %p1;", &[5], 1);
    gives("setp.eq.u32 %p1, %r1, 5; selp.b32 %r0, %r1, %r2, %p1;", &[6, 77], 77);
    gives("setp.eq.u32 %p1, %r1, 5; @!%p1 mov.u32 %r0, 3; @%p1 mov.u32 %r0, 4;", &[6], 3);
    gives("set.lt.u32.s32 %r0, %r1, %r2;", &[w(-1), 1], 0xFFFF_FFFF);
    gives("set.lt.f32.s32 %r0, %r1, %r2;", &[w(-1), 1], f(1.0));
    gives("set.gt.f16x2.f16x2 %r0, %r1, %r2;", &[h(1.0) | h(4.0) << 16, h(2.0) | h(3.0) << 16], h(1.0) << 16);
    gives("setp.gt.f16x2 %p0|%p1, %r1, %r2; selp.u32 %r0, 10, 0, %p1;", &[h(1.0) | h(4.0) << 16, h(2.0) | h(3.0) << 16], 10);
    gives("testp.infinite.f32 %p0, %r1;", &[f(f32::NEG_INFINITY)], 1);
    gives("testp.notanumber.f32 %p0, %r1;", &[f(1.0)], 0);
    gives("testp.finite.f32 %p0, %r1;", &[f(1.0)], 1);
}

#[test]
fn conversions() {
    let c = |opcode: &str, to: &str, from: &str, value: u64, expected: u64| {
        gives(&format!("cvt.{opcode} %{to}0, %{from}1;"), &[value], expected)
    };
    c("s64.s32", "rd", "r", w(-5), l(-5));
    c("u64.u32", "rd", "r", w(-5), w(-5));
    c("u32.u64", "r", "rd", 0x5_0000_0007, 7);
    c("s32.s8", "r", "r", 0x1FE, w(-2));
    c("u32.u8", "r", "r", 0x1FE, 0xFE);
    c("s16.s8", "rs", "rs", 0xFE, s(-2));
    c("u16.u32", "rs", "r", 0x1_0002, 2);
    c("sat.u8.s32", "r", "r", w(-3), 0);
    c("sat.s8.s32", "r", "r", w(300), 127);
    c("rn.f32.s32", "r", "r", w(16_777_217), f(16_777_216.0));
    c("rz.f32.s32", "r", "r", w(-16_777_217), f(-16_777_216.0));
    c("rp.f32.u32", "r", "r", 16_777_217, f(16_777_218.0));
    c("rn.f64.s64", "rd", "rd", l(-9), d(-9.0));
    for (mode, values) in [("rni", [2, -2, 4]), ("rzi", [2, -2, 3]), ("rmi", [2, -3, 3]), ("rpi", [3, -2, 4])] {
        for (value, expected) in [2.5f32, -2.5, 3.5].into_iter().zip(values) {
            c(&format!("{mode}.s32.f32"), "r", "r", f(value), w(expected));
            c(&format!("{mode}.f32.f32"), "r", "r", f(value), f(expected as f32));
        }
    }
    c("rzi.s32.f32", "r", "r", f(1e20), w(i32::MAX));
    c("rzi.u32.f32", "r", "r", f(-5.0), 0);
    c("rzi.s32.f32", "r", "r", f(f32::NAN), 0);
    c("rzi.u64.f64", "rd", "rd", d(1e15), 1_000_000_000_000_000);
    c("rn.f32.f64", "r", "rd", d(0.1), f(0.1));
    c("f64.f32", "rd", "r", f(0.1), d(f64::from(0.1f32)));
    c("sat.f32.f32", "r", "r", f(-3.0), f(0.0));
    c("f32.f16", "r", "rs", h(6.1e-5), f(f16::from_f32(6.1e-5).to_f32()));
    c("f32.f16", "r", "rs", 0x0001, f(2.0f32.powi(-24)));
    c("f32.f16", "r", "rs", 0xFC00, f(f32::NEG_INFINITY));
    c("f32.bf16", "r", "rs", g(-3.5), f(-3.5));
    c("rn.f16.f32", "rs", "r", f(65520.0), 0x7C00);
    c("rz.f16.f32", "rs", "r", f(65520.0), 0x7BFF);
    c("rn.f16.f32", "rs", "r", f(1.0 + 1.0 / 2048.0), h(1.0));
    c("rp.f16.f32", "rs", "r", f(1.0 + 1.0 / 65536.0), 0x3C01);
    c("rm.f16.f32", "rs", "r", f(-1.0 - 1.0 / 65536.0), 0xBC01);
    c("rn.bf16.f32", "rs", "r", f(1.0 + 1.0 / 256.0), g(1.0));
    c("rz.bf16.f32", "rs", "r", 0x3F80_FFFF, 0x3F80);
    c("rn.relu.bf16.f32", "rs", "r", f(-2.0), 0);
    c("rn.f16.s32", "rs", "r", w(-7), h(-7.0));
    c("rzi.s32.f16", "r", "rs", h(-7.9), w(-7));
    gives("cvt.rn.f16x2.f32 %r0, %r1, %r2;", &[f(1.5), f(-2.0)], h(1.5) << 16 | h(-2.0));
    gives("cvt.rn.bf16x2.f32 %r0, %r1, %r2;", &[f(1.5), f(-2.0)], g(1.5) << 16 | g(-2.0));
    gives("cvt.rn.relu.f16x2.f32 %r0, %r1, %r2;", &[f(1.5), f(-2.0)], h(1.5) << 16);
}

#[test]
fn every_half_becomes_its_single_and_back() {
    use crate::ptx::operation::{half_to_single, single_to_bfloat};
    for bits in 0..=u16::MAX {
        let (found, expected) = (half_to_single(bits), f16::from_bits(bits).to_f32());
        assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#06x}");
        let single = f32::from_bits(u32::from(bits) << 16 | 0x8000);
        let found = bf16::from_bits(single_to_bfloat(single));
        assert!(found == bf16::from_f32(single) || (found.is_nan() && single.is_nan()), "{single}");
    }
}

#[test]
fn fused_halves_round_once() {
    // The product is half a unit above 1, and the addend decides: two roundings would lose it.
    let (a, b) = (f16::from_f32(1.0 + 1.0 / 1024.0), f16::from_f32(1.0 + 1.0 / 2048.0));
    for c in [f16::from_bits(1), f16::from_bits(0x8001)] {
        let exact = a.to_f64() * b.to_f64() + c.to_f64();
        let expected = u64::from(f16::from_f64(exact).to_bits());
        gives("fma.rn.f16 %rs0, %rs1, %rs2, %rs3;", &[a.to_bits().into(), b.to_bits().into(), c.to_bits().into()], expected);
    }
    gives("ex2.approx.f16x2 %r0, %r1;", &[h(3.0) | h(-1.0) << 16], h(8.0) | h(0.5) << 16);
    gives("tanh.approx.f16 %rs0, %rs1;", &[h(0.5)], h(0.5f32.tanh()));
    gives("abs.bf16x2 %r0, %r1;", &[g(-3.0) | g(4.0) << 16], g(3.0) | g(4.0) << 16);
    gives("min.NaN.f16 %rs0, %rs1, %rs2;", &[h(1.0), 0x7E00], u64::from(f16::NAN.to_bits()));
}

#[test]
fn lanes_together() {
    let each = |body: &str, expected: &dyn Fn(u64) -> u64| {
        assert_eq!(lanes(body, &[]), (0..32).map(expected).collect::<Vec<u64>>(), "{body}");
    };
    each("shfl.sync.bfly.b32 %r0, %r11, 5, 31, -1;", &|lane| lane ^ 5);
    each("shfl.sync.idx.b32 %r0, %r11, 9, 31, -1;", &|_| 9);
    each("shfl.sync.up.b32 %r0|%p0, %r11, 3, 0, -1;", &|lane| if lane < 3 { lane } else { lane - 3 + 1 });
    each("shfl.sync.down.b32 %r0|%p0, %r11, 3, 31, -1;", &|lane| if lane > 28 { lane } else { lane + 3 + 1 });
    // Segments of 8 lanes.
    each("shfl.sync.down.b32 %r0, %r11, 3, 0x181f, -1;", &|lane| if lane % 8 > 4 { lane } else { lane + 3 });
    each("shfl.sync.idx.b32 %r0, %r11, 2, 0x181f, -1;", &|lane| lane / 8 * 8 + 2);
    each("setp.lt.u32 %p1, %r11, 7; vote.sync.ballot.b32 %r0, %p1, -1;", &|_| 127);
    each("setp.lt.u32 %p1, %r11, 7; vote.sync.all.pred %p0, !%p1, -1;", &|_| 0);
    each("setp.lt.u32 %p1, %r11, 7; vote.sync.uni.pred %p0, %p1, -1;", &|_| 0);
    each("setp.lt.u32 %p1, %r11, 7; @%p1 vote.sync.all.pred %p0, %p1, 127;", &|lane| u64::from(lane < 7));
    each("setp.lt.u32 %p1, %r11, 7; @%p1 activemask.b32 %r0;", &|lane| if lane < 7 { 127 } else { 0 });
    each("redux.sync.add.s32 %r0, %r11, -1;", &|_| 496);
    each("sub.s32 %r1, %r11, 5; redux.sync.min.s32 %r0, %r1, -1;", &|_| w(-5));
    each("sub.s32 %r1, %r11, 5; redux.sync.max.u32 %r0, %r1, -1;", &|_| w(-1));
    each("shr.u32 %r1, %r11, 4; match.any.sync.b32 %r0, %r1, -1;", &|lane| if lane < 16 { 0xFFFF } else { 0xFFFF_0000 });
    each("match.all.sync.b32 %r0|%p0, %r11, -1;", &|_| 0);
    each("mov.u32 %r0, %lanemask_lt;", &|lane| (1 << lane) - 1);
    each("mov.u32 %r0, %lanemask_ge;", &|lane| u64::from(u32::MAX << lane));
}

#[test]
fn atomics() {
    let global = |opcode: &str, value: &str, start: u64| {
        lanes(&format!("atom.global.{opcode} %r0, [%rd10], {value}; bar.warp.sync -1; ld.global.u32 %r0, [%rd10];"), &[start])[0]
    };
    assert_eq!(global("add.u32", "%r11", 4), 500);
    assert_eq!(global("max.s32", "%r11", w(-4)), 31);
    assert_eq!(global("min.u32", "%r11", 4), 0);
    assert_eq!(global("or.b32", "%r11", 64), 95);
    assert_eq!(global("inc.u32", "6", 0), 32 % 7);
    assert_eq!(global("dec.u32", "6", 6), 2);
    assert_eq!(global("add.f32", "0f3F800000", f(0.5)), f(32.5));
    assert_eq!(global("add.noftz.f16x2", "0x3C004000", 0), h(64.0) | h(32.0) << 16);
    assert_eq!(global("exch.b32", "%r11", 4), 31);
    let before = lanes("atom.global.add.u32 %r0, [%rd10], 1;", &[0]);
    assert_eq!(before, (0..32).collect::<Vec<u64>>());
    let swapped = lanes("atom.global.cas.b32 %r0, [%rd10], 5, 9;", &[5]);
    assert_eq!((swapped[0], swapped[31]), (5, 9));
    let wide = lanes("atom.global.add.u64 %rd5, [%rd10], 0x100000000; bar.warp.sync -1; ld.global.u64 %rd0, [%rd10];", &[3]);
    assert_eq!(wide[7], 32 << 32 | 3);
}

#[test]
fn memory_of_every_kind() {
    gives("ld.global.s8 %r0, [%rd10];", &[0x80], w(-128));
    gives("ld.global.u8 %rs0, [%rd10+1];", &[0x8012], 0x80);
    gives("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%r4, %r0}, [%rd10];", &[7 << 32], 7);
    // Generic addresses of shared, local and parameter memory.
    gives(
        "mov.u64 %rd4, words; cvta.shared.u64 %rd4, %rd4; isspacep.shared %p1, %rd4; isspacep.global %p2, %rd4;\n\
           selp.u32 %r0, 1, 0, %p1; @%p2 mov.u32 %r0, 9;",
        &[],
        1,
    );
    let own = "mov.u32 %r4, words; mad.lo.u32 %r4, %r11, 4, %r4; cvt.u64.u32 %rd4, %r4; cvta.shared.u64 %rd4, %rd4;\n\
               st.u32 [%rd4], %r11; ld.shared.u32 %r5, [%r4]; cvta.to.shared.u64 %rd5, %rd4; cvt.u32.u64 %r6, %rd5; ld.shared.u32 %r7, [%r6];\n\
               add.u32 %r0, %r5, %r7;";
    assert_eq!(lanes(own, &[]), (0..32).map(|lane| 2 * lane).collect::<Vec<u64>>());
    let local = "{ .local .align 8 .b8 mine[16]; mov.u64 %rd4, mine; cvta.local.u64 %rd5, %rd4; st.local.u32 [%rd4+8], %r11;\n\
                 st.u32 [%rd5+4], 100; ld.u32 %r4, [%rd5+8]; ld.local.u32 %r5, [mine+4]; add.u32 %r0, %r4, %r5; }";
    assert_eq!(lanes(local, &[]), (0..32).map(|lane| lane + 100).collect::<Vec<u64>>());
    gives("mov.b64 %rd4, b; ld.param.u64 %rd5, [%rd4]; ld.param.u64 %rd6, [b]; sub.u64 %rd0, %rd5, %rd6;", &[], 0);
}

#[test]
fn matrices_move_both_ways() {
    // Each row holds its lane's number; the transposed load gives lane 4 c + r / 2 the rows 2 r and 2 r + 1 of column c.
    let write = "mov.u32 %r4, words; and.b32 %r5, %r11, 7; mad.lo.u32 %r6, %r5, 16, %r4; setp.lt.u32 %p1, %r11, 8;\n\
                 mad.lo.u32 %r7, %r5, 0x10001, 0; @%p1 st.shared.v4.u32 [%r6], {%r7, %r7, %r7, %r7}; bar.sync 0;";
    let plain = lanes(&format!("{write} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r0}}, [%r6];"), &[]);
    assert_eq!(plain, (0..32).map(|lane| (lane / 4) * 0x10001).collect::<Vec<u64>>());
    let across = lanes(&format!("{write} ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r0}}, [%r6];"), &[]);
    assert_eq!(across, (0..32).map(|lane| ((lane % 4) * 2) | (((lane % 4) * 2 + 1) << 16)).collect::<Vec<u64>>());
    let stored = lanes(
        &format!(
            "{write} ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%r8}}, [%r6]; bar.sync 0;\n\
             stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r6], {{%r8}}; bar.sync 0; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r0}}, [%r6];"
        ),
        &[],
    );
    assert_eq!(stored, plain);
}

/// What lanes hold of a product, by the tables of the PTX manual: A is `row + 2 k`, B is `k - 3 column`.
fn products(shape: &str, kinds: &str, depth: u64, bytes: u64, one: impl Fn(u64) -> u64) {
    let pack = 4 / bytes;
    let word = |values: &dyn Fn(u64) -> u64| (0..pack).fold(0, |word, inside| word | one(values(inside)) << (8 * bytes * inside));
    let memory = |registers: u64, of: &dyn Fn(u64, u64, u64) -> u64| {
        (0..32)
            .flat_map(|lane| (0..registers).map(move |register| (lane, register)))
            .map(|(lane, register)| word(&|inside| of(lane, register, inside)))
            .collect::<Vec<u64>>()
    };
    let words = depth * bytes / 16;
    let a = memory(2 * words, &|lane, register, inside| {
        let (row, k) = (lane / 4 + 8 * (register % 2), (lane % 4) * pack + inside + 4 * pack * (register / 2));
        (row + 2 * k) % 16
    });
    let b = memory(words, &|lane, register, inside| (((lane % 4) * pack + inside + 4 * pack * register) + 3 * (lane / 4)) % 8);
    for item in 0..4u64 {
        let mut body = String::new();
        let (mut names_a, mut names_b) = (Vec::new(), Vec::new());
        // Each lane picks its words out of a chain of selections: no memory is in the way.
        for (names, words, values, first) in [(&mut names_a, 2 * words, &a, 1), (&mut names_b, words, &b, 5)] {
            for register in 0..words {
                let name = format!("%r{}", first + register);
                for lane in 0..32 {
                    let value = values[(lane * words + register) as usize];
                    body += &format!("setp.eq.u32 %p1, %r11, {lane}; @%p1 mov.u32 {name}, {value};\n");
                }
                names.push(name);
            }
        }
        let sums: Vec<String> = (0..4).map(|place| if place == item { "%r0".to_owned() } else { "%r10".to_owned() }).collect();
        let zeros = ["%r9"; 4].join(", ");
        body += &format!(
            "mov.u32 %r9, 0; mma.sync.aligned.{shape}.row.col.{kinds} {{{}}}, {{{}}}, {{{}}}, {{{zeros}}};",
            sums.join(", "),
            names_a.join(", "),
            names_b.join(", ")
        );
        for (lane, found) in lanes(&body, &[]).into_iter().enumerate() {
            let lane = lane as u64;
            let (row, column) = (lane / 4 + 8 * (item / 2), (lane % 4) * 2 + item % 2);
            let expected: u64 = (0..depth).map(|k| ((row + 2 * k) % 16) * ((k + 3 * column) % 8)).sum();
            let found = if bytes == 1 { found } else { u64::from(f32::from_bits(found as u32) as u32) };
            assert_eq!(found, expected, "{shape} {kinds}, row {row}, column {column}");
        }
    }
}

#[test]
fn products_of_every_shape() {
    products("m16n8k16", "f32.f16.f16.f32", 16, 2, |value| h(value as f32));
    products("m16n8k8", "f32.f16.f16.f32", 8, 2, |value| h(value as f32));
    products("m16n8k16", "f32.bf16.bf16.f32", 16, 2, |value| g(value as f32));
    products("m16n8k8", "f32.bf16.bf16.f32", 8, 2, |value| g(value as f32));
    products("m16n8k32", "s32.s8.s8.s32", 32, 1, |value| value);
    products("m16n8k16", "s32.u8.s8.s32", 16, 1, |value| value);
    // Sums of f16: two results a register.
    let body = format!(
        "mov.u32 %r1, {0}; mov.u32 %r2, {0}; mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {{%r0, %r9}}, {{%r1, %r1, %r1, %r1}}, {{%r1, %r2}}, {{%r1, %r2}};",
        h(1.5) | h(1.5) << 16
    );
    let expected = h(1.5 + 16.0 * 2.25);
    gives(&body, &[], expected | expected << 16);
}
