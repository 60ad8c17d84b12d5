//! Which kernel attention runs on, and launches that have nothing to do.

use kernels::attention::Spec;
use kernels::attention::cuda::{DeviceBias, DeviceHeads, DeviceSpans, attention, uses_tensor_cores};
use kernels::cuda::{Buffer, DeviceType, View};

use crate::device::stream;

/// Queries, keys and values side by side at an address, with the output before them.
struct Call {
    address: u64,
    dtype: DeviceType,
    stride: usize,
    offset: usize,
    spec: Spec,
    bias: DeviceBias,
}

impl Call {
    fn new(dtype: DeviceType, head_size: usize) -> Self {
        let spec = Spec { heads: 2, head_size, scale: 0.1, causal: false, window: None };
        Call { address: 4096, dtype, stride: 6 * head_size, offset: 0, spec, bias: DeviceBias::None }
    }

    fn is_fused(&self) -> bool {
        let width = self.spec.heads * self.spec.head_size;
        let values = View { address: self.address, len: 10 * self.stride, dtype: self.dtype };
        let part = |index: usize| DeviceHeads { values, stride: self.stride, offset: self.offset + index * width };
        let output = View { address: 256, len: 10 * width, dtype: self.dtype };
        uses_tensor_cores([part(0), part(1), part(2)], &self.spec, self.bias, output)
    }
}

#[test]
fn tensor_cores_are_for_what_they_can_do() {
    let half = |head_size| Call::new(DeviceType::F16, head_size);
    for head_size in [32, 64, 96, 128] {
        assert!(half(head_size).is_fused() && Call::new(DeviceType::Bf16, head_size).is_fused());
        assert!(!Call::new(DeviceType::F32, head_size).is_fused(), "f32 would lose bits");
    }
    assert!([16, 40, 80, 160, 256].into_iter().all(|head_size| !half(head_size).is_fused()));
    assert!(!Call { address: 4098, ..half(64) }.is_fused(), "an address between wide accesses");
    assert!(!Call { stride: 6 * 64 + 4, ..half(64) }.is_fused(), "rows between wide accesses");
    assert!(!Call { offset: 2, stride: 7 * 64, ..half(64) }.is_fused(), "parts between wide accesses");
    let table = View { address: 512, len: 2 * 9, dtype: DeviceType::F32 };
    assert!(Call { bias: DeviceBias::Distance { table, reach: 4 }, ..half(64) }.is_fused());
    let rows = View { address: 512, len: 9, dtype: DeviceType::U32 };
    assert!(!Call { bias: DeviceBias::Disentangled { keys: None, queries: None, rows }, ..half(64) }.is_fused());
    let mut negative = half(64);
    negative.spec.scale = -0.1;
    assert!(!negative.is_fused(), "the largest product would not be the largest score");
}

/// Batches without spans, and spans without queries, write nothing.
#[test]
fn nothing_to_do_writes_nothing() {
    let stream = stream();
    for (dtype, head_size) in [(DeviceType::F16, 32), (DeviceType::F32, 32), (DeviceType::F32, 160)] {
        let call = Call::new(dtype, head_size);
        let width = 2 * head_size;
        let before = vec![0x5a; 4 * width * dtype.bytes()];
        let output = Buffer::upload(&stream, &before).unwrap();
        let values = Buffer::upload(&stream, &vec![0; 4 * call.stride * dtype.bytes()]).unwrap();
        let spans = Buffer::upload(&stream, &[0; 2 * 4 * 4]).unwrap();
        let part = |index: usize| DeviceHeads { values: values.view(dtype), stride: call.stride, offset: index * width };
        for (count, longest) in [(0, 0), (0, 40), (2, 0), (2, 40)] {
            let spans =
                DeviceSpans { spans: spans.view(DeviceType::U32), count, longest_queries: longest, longest_keys: longest };
            let parts = [part(0), part(1), part(2)];
            attention(&stream, parts, &spans, &call.spec, DeviceBias::None, output.view(dtype)).unwrap();
        }
        assert_eq!(output.download(&stream).unwrap(), before);
    }
}
