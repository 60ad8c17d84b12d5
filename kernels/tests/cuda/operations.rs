//! Every kernel against its specification: the comparisons that `alcedo doctor` makes too.

use kernels::cuda::check::checks;

use crate::device::stream;

/// Makes all comparisons of one operation and reports those that are wrong.
fn check(operation: &str) {
    let stream = stream();
    let (mut count, mut wrong) = (0, Vec::new());
    for check in checks(stream.gpu().capability()).filter(|check| check.operation() == operation) {
        let case = check.run(&stream).unwrap_or_else(|error| panic!("{}: {error}", check.shape()));
        println!("{case}");
        count += 1;
        if !case.is_right() {
            wrong.push(case.to_string());
        }
    }
    assert!(count > 0, "no comparison is named '{operation}'");
    assert!(wrong.is_empty(), "{} of {count} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn embed() {
    check("embed");
}

#[test]
fn norm() {
    check("norm");
}

#[test]
fn rotary() {
    check("rotary");
}

#[test]
fn activation() {
    check("activation");
}

#[test]
fn gate() {
    check("gate");
}

#[test]
fn pool() {
    check("pool");
}

#[test]
fn rows() {
    check("rows");
}

#[test]
fn patches() {
    check("patches");
}

#[test]
fn attention() {
    check("attention");
}

#[test]
fn matmul() {
    check("matmul");
}
