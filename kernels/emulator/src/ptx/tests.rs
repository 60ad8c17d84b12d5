//! Checks of the parser.

use super::Module;

fn wrap(body: &str) -> String {
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .align 8 .b8 b[12], .param .u8 c)\n\
         .maxntid 128, 2, 1\n.minnctapersm 2\n{{\n.reg .b32 %r<4>; .reg .pred %p<2>;\n{body}\nret;\n}}\n"
    )
}

#[test]
fn a_kernel_says_what_it_takes() {
    let module = Module::parse(&wrap(".shared .align 16 .b8 x[40]; .shared .b32 y; mov.u32 %r1, x; mov.u32 %r2, y;"))
        .expect("it is right");
    assert_eq!(module.target(), "sm_80");
    let kernel = module.kernel("k").expect("it is there");
    let offsets: Vec<(usize, usize, usize)> = kernel.parameters.iter().map(|p| (p.offset, p.bytes, p.align)).collect();
    assert_eq!(offsets, [(0, 8, 8), (8, 12, 8), (20, 1, 1)]);
    assert_eq!((kernel.parameter_bytes(), kernel.static_shared_bytes, kernel.max_threads), (21, 44, Some([128, 2, 1])));
    assert!(module.kernel("other").is_none());
    assert_eq!(module.kernels().count(), 1);
}

#[test]
fn variables_have_contents_and_addresses() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.const .align 4 .u32 n[3] = {1, 0x10};\n\
                .global .align 8 .u64 p[2] = {n+4, generic(q)};\n.global .align 4 .f32 q = 0f3F800000;\n.global .b8 text[4] = {97, 98, 0};\n";
    let module = Module::parse(text).expect("it is right");
    let [n, p, q, letters] = module.globals() else { panic!("four variables") };
    assert_eq!((n.constant, n.contents.as_slice()), (true, [1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0].as_slice()));
    assert_eq!((p.addresses.as_slice(), p.align), ([(0, 0, 4), (8, 2, 0)].as_slice(), 8));
    assert_eq!(q.contents, 1.0f32.to_le_bytes());
    assert_eq!(letters.contents, b"ab\0\0");
}

#[test]
fn what_is_not_supported_is_refused_with_its_line() {
    let refused = [
        ("mov.u32 %r1, %r2;\nwgmma.fence.sync.aligned;", 10, "'wgmma.fence.sync.aligned' is not supported, in kernel 'k'"),
        ("add.u32 %r1, %r2;", 9, "not supported"),
        ("mov.u32 %r1, %r7;", 9, "nothing is named '%r7'"),
        ("@%p1 bra NOWHERE;", 4, "the label 'NOWHERE' is nowhere"),
        ("cvt.rn.e4m3x2.f32 %r1, %r2, %r3;", 9, "not supported"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", 9, "not supported"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", 9, "does not take so many registers"),
        ("call vprintf, (%r1);", 9, "calls of 'vprintf'"),
        ("atom.global.add.v4.f32 %r1, [%r2], %r3;", 9, "not supported"),
        ("mov.u32 %r1, %r2", 10, "where ',' or ';' was expected"),
        ("tex.2d.v4.f32.f32 {%r1, %r1, %r1, %r1}, [%r2, {%r3, %r3}];", 9, ""),
        (".reg .f8 %x;", 9, "'.f8' are not supported"),
    ];
    for (body, line, reason) in refused {
        let error = Module::parse(&wrap(body)).expect_err(body);
        assert!(error.reason.contains(reason), "{body}: {error}");
        assert_eq!(error.line, line, "{body}: {error}");
    }
    assert!(Module::parse("\u{7f}ELF").is_err());
    assert!(Module::parse(".version 9.0 .target sm_80 .visible .entry k(").is_err());
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let text = ".version 9.0\n.target sm_80\n.func f() { call f; ret; }\n.visible .entry k() { call f; ret; }\n";
    let error = Module::parse(text).expect_err("it has no end");
    assert!(error.reason.contains("'f' calls itself"), "{error}");
}
