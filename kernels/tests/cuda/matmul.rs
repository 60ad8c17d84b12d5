//! Plans of products: how many there are, and what recording them does. Their numbers are compared in `operations`.

use kernels::cuda::{Buffer, DeviceType, Stream, View};
use kernels::matmul::cuda::{DeviceEpilogue, DeviceMatrix, Multiplier, Tuning};

use crate::device::stream;

/// A product of 16-bit numbers that are all the same.
struct Product {
    input: Buffer,
    weights: Buffer,
    output: Buffer,
    inputs: usize,
    outputs: usize,
}

impl Product {
    fn new(stream: &Stream, rows: usize, outputs: usize, inputs: usize) -> Self {
        let numbers = |count: usize, value: f32| {
            let bytes: Vec<u8> = std::iter::repeat_n(half::f16::from_f32(value).to_le_bytes(), count).flatten().collect();
            Buffer::upload(stream, &bytes).unwrap()
        };
        Product {
            input: numbers(rows * inputs, 0.5),
            weights: numbers(outputs * inputs, 0.25),
            output: numbers(rows * outputs, 0.0),
            inputs,
            outputs,
        }
    }

    fn run(&self, stream: &Stream, multiplier: &mut Multiplier, rows: usize) {
        let matrix = DeviceMatrix { values: self.weights.view(DeviceType::F16), outputs: self.outputs, inputs: self.inputs };
        let part = |buffer: &Buffer, n: usize| -> View { buffer.view(DeviceType::F16).part(0, rows * n) };
        let (input, output) = (part(&self.input, self.inputs), part(&self.output, self.outputs));
        multiplier.run(stream, input, rows, &matrix, DeviceEpilogue::default(), output).unwrap();
    }

    fn results(&self, stream: &Stream, rows: usize) -> Vec<f32> {
        let bytes = self.output.download(stream).unwrap();
        let numbers = bytes.as_chunks::<2>().0.iter().map(|number| half::f16::from_le_bytes(*number).to_f32());
        numbers.take(rows * self.outputs).collect()
    }
}

#[test]
fn a_plan_serves_all_products_of_its_shape() {
    let stream = stream();
    let mut multiplier = Multiplier::for_owner(&stream, 1 << 20, "", Tuning::Timed).unwrap();
    let product = Product::new(&stream, 64, 32, 16);
    for rows in [64, 16, 64, 16, 64] {
        product.run(&stream, &mut multiplier, rows);
    }
    assert_eq!(multiplier.plans(), 2);
    assert_eq!(product.results(&stream, 64), vec![2.0; 64 * 32]);
}

#[test]
fn plans_do_not_pile_up() {
    let stream = stream();
    let mut multiplier = Multiplier::for_owner(&stream, 1 << 20, "", Tuning::First).unwrap();
    let product = Product::new(&stream, 1100, 8, 8);
    for rows in 1..=1100 {
        product.run(&stream, &mut multiplier, rows);
    }
    assert_eq!(multiplier.plans(), 1024);
    // The first was forgotten, and is made again.
    product.run(&stream, &mut multiplier, 1);
    assert_eq!((multiplier.plans(), product.results(&stream, 1100)), (1024, vec![1.0; 8800]));
}

#[test]
fn a_product_can_be_recorded_before_it_is_measured() {
    let stream = stream();
    let mut multiplier = Multiplier::for_owner(&stream, 1 << 20, "", Tuning::Timed).unwrap();
    let product = Product::new(&stream, 48, 24, 40);
    let mut graph = stream
        .capture(|stream| {
            product.run(stream, &mut multiplier, 48);
            Ok(())
        })
        .unwrap();
    assert_eq!(product.results(&stream, 48), vec![0.0; 48 * 24], "recording does nothing yet");
    graph.launch(&stream).unwrap();
    assert_eq!(product.results(&stream, 48), vec![5.0; 48 * 24]);
    product.run(&stream, &mut multiplier, 48);
    assert_eq!((multiplier.plans(), product.results(&stream, 48)), (1, vec![5.0; 48 * 24]));
}

#[test]
fn a_plan_takes_the_bias_of_each_product() {
    let stream = stream();
    let mut multiplier = Multiplier::for_owner(&stream, 1 << 20, "", Tuning::First).unwrap();
    let product = Product::new(&stream, 16, 8, 8);
    let matrix = DeviceMatrix { values: product.weights.view(DeviceType::F16), outputs: 8, inputs: 8 };
    for value in [1.0, 2.0, 4.0] {
        let bias: Vec<u8> = std::iter::repeat_n(half::f16::from_f32(value).to_le_bytes(), 8).flatten().collect();
        let bias = Buffer::upload(&stream, &bias).unwrap();
        let epilogue = DeviceEpilogue { bias: Some(bias.view(DeviceType::F16)), ..DeviceEpilogue::default() };
        let [input, output] = [&product.input, &product.output].map(|buffer| buffer.view(DeviceType::F16));
        multiplier.run(&stream, input, 16, &matrix, epilogue, output).unwrap();
        assert_eq!(product.results(&stream, 16), vec![1.0 + value; 16 * 8]);
    }
    assert_eq!(multiplier.plans(), 1);
}
