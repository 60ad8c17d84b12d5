//! What makes two requests the same: a hash over everything that can change the answer.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)
)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::OnceLock;

use xxhash_rust::xxh3::Xxh3;

use crate::request::{Parameter, Parameters, SequenceId, ValidRequest};

/// Bytes of a secret of XXH3.
const SECRET_BYTES: usize = 192;

/// Identifies a request by what can change its answer: two independent hashes of 128 bits.
///
/// XXH3 is no cryptographic hash. That nobody can make two requests collide rests on the secrets, which are random in
/// each process and never leave it; that there are two makes a guess at differences that cancel out hopeless. So keys
/// mean nothing outside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey([u128; 2]);

impl Hash for RequestKey {
    /// It is a hash already: 64 of its bits are as good as any.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, _] = self.0;
        let [bytes, _] = halves(first);
        state.write_u64(bytes);
    }
}

fn halves(wide: u128) -> [u64; 2] {
    [wide, wide >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(u64::MAX))
}

/// Hashes keys by taking them as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Keys write a u64; for anything else any mixing will do.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Makes [`KeyHasher`]s.
pub(super) type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

/// Which loads of which models a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Model.
    pub model: &'a str,
    /// Its version.
    pub version: u64,
    /// The number of its load: what was loaded anew may answer otherwise.
    pub load: u64,
    /// The numbers of the loads of everything that it is composed of; nothing but for an ensemble.
    pub composing: &'a [u64],
}

impl RequestKey {
    /// The key of a request. The client's id, priority, timeout, deadline and wish for a timeline have no part in it.
    ///
    /// `None` for a request of a sequence: its answer depends on the requests before it.
    pub fn of(target: &Target<'_>, request: &ValidRequest) -> Option<Self> {
        let options = &request.options;
        if options.sequence_id != SequenceId::None || options.sequence_start || options.sequence_end {
            return None;
        }
        let mut digest = Digest::new();
        digest.text(target.model);
        digest.number(target.version);
        digest.number(target.load);
        digest.list(target.composing, |digest, load| digest.number(*load));
        digest.size(request.rows);
        // A position says as much as a name: within one load of a model they belong together.
        digest.list(&request.outputs, |digest, wanted| digest.tag(u8::from(*wanted)));
        digest.list(&request.inputs, |digest, input| match input {
            None => digest.tag(0),
            Some(tensor) => {
                digest.tag(1);
                digest.text(tensor.datatype().as_str());
                digest.list(tensor.shape().sizes(), |digest, size| digest.size(*size));
                digest.bytes(tensor.bytes());
            }
        });
        digest.parameters(&request.parameters);
        Some(digest.finish())
    }
}

/// Writes parts one after the other. Each is of a fixed size or begins with its length, so no two lists of parts
/// give the same bytes.
struct Digest([Xxh3; 2]);

impl Digest {
    fn new() -> Self {
        Self(secrets().map(Xxh3::with_secret))
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|hash| hash.update(bytes));
    }

    fn tag(&mut self, tag: u8) {
        self.raw(&[tag]);
    }

    fn number(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    fn size(&mut self, size: usize) {
        self.number(u64::try_from(size).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.size(bytes.len());
        self.raw(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.size(items.len());
        items.iter().for_each(|item| write(self, item));
    }

    /// Parameters by name, headers that were forwarded among them.
    fn parameters(&mut self, parameters: &Parameters) {
        self.size(parameters.len());
        for (name, value) in parameters {
            self.text(name);
            match value {
                Parameter::Bool(value) => {
                    self.tag(0);
                    self.tag(u8::from(*value));
                }
                Parameter::Int64(value) => {
                    self.tag(1);
                    self.raw(&value.to_le_bytes());
                }
                Parameter::String(value) => {
                    self.tag(2);
                    self.text(value);
                }
                Parameter::Double(value) => {
                    self.tag(3);
                    self.number(value.to_bits());
                }
            }
        }
    }

    fn finish(&self) -> RequestKey {
        RequestKey(self.0.each_ref().map(Xxh3::digest128))
    }
}

/// The secrets of this process, from the random keys that the operating system gives its hash tables.
fn secrets() -> [[u8; SECRET_BYTES]; 2] {
    static SECRETS: OnceLock<[[u8; SECRET_BYTES]; 2]> = OnceLock::new();
    *SECRETS.get_or_init(|| {
        std::array::from_fn(|_| {
            let random = RandomState::new();
            let mut secret = [0; SECRET_BYTES];
            for (number, bytes) in secret.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *bytes = random.hash_one(number).to_le_bytes();
            }
            secret
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::request::{BatchKey, RequestOptions};
    use crate::tensor::{DataType, Shape, Tensor};

    fn tensor(datatype: DataType, sizes: &[usize], fill: u8) -> Tensor {
        let shape = Shape::new(sizes);
        let bytes = shape.element_count().unwrap() * datatype.element_bytes().unwrap();
        Tensor::new(datatype, shape, Bytes::from(vec![fill; bytes])).unwrap()
    }

    fn plain() -> ValidRequest {
        ValidRequest {
            id: "id".to_owned(),
            options: RequestOptions::default(),
            parameters: Parameters::from([("a".to_owned(), Parameter::Int64(1))]),
            inputs: vec![Some(tensor(DataType::Int32, &[2, 3], 7)), None],
            outputs: vec![true, false],
            rows: 2,
            batch_key: BatchKey::default(),
            cost: 2,
            received_at: Timestamp::from_nanos(5),
            deadline: None,
            timeline: None,
        }
    }

    const TARGET: Target<'_> = Target { model: "m", version: 3, load: 11, composing: &[4, 5] };

    fn key(request: &ValidRequest) -> RequestKey {
        RequestKey::of(&TARGET, request).unwrap()
    }

    /// Every way in which a request differs that can change the answer, one at a time.
    fn differing() -> Vec<(&'static str, ValidRequest)> {
        let input = |tensor: Option<Tensor>| ValidRequest { inputs: vec![tensor, None], ..plain() };
        let parameters = |parameters: &[(&str, Parameter)]| ValidRequest {
            parameters: parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..plain()
        };
        vec![
            ("bytes", input(Some(tensor(DataType::Int32, &[2, 3], 8)))),
            ("datatype", input(Some(tensor(DataType::Fp32, &[2, 3], 7)))),
            ("shape", input(Some(tensor(DataType::Int32, &[3, 2], 7)))),
            ("rank", input(Some(tensor(DataType::Int32, &[6], 7)))),
            ("absent", input(None)),
            ("other input", ValidRequest { inputs: vec![None, Some(tensor(DataType::Int32, &[2, 3], 7))], ..plain() }),
            ("outputs", ValidRequest { outputs: vec![false, true], ..plain() }),
            ("more outputs", ValidRequest { outputs: vec![true, true], ..plain() }),
            ("rows", ValidRequest { rows: 1, ..plain() }),
            ("no parameter", parameters(&[])),
            ("its value", parameters(&[("a", Parameter::Int64(2))])),
            ("its type", parameters(&[("a", Parameter::Double(f64::from_bits(1)))])),
            ("its name", parameters(&[("b", Parameter::Int64(1))])),
            ("a bool", parameters(&[("a", Parameter::Bool(true))])),
            ("a text", parameters(&[("a", Parameter::String("1".to_owned()))])),
            ("one more", parameters(&[("a", Parameter::Int64(1)), ("b", Parameter::Bool(false))])),
        ]
    }

    #[test]
    fn the_key_changes_with_every_single_part() {
        let mut keys = HashSet::from([key(&plain())]);
        for (what, request) in differing() {
            assert!(keys.insert(key(&request)), "{what}");
        }
        let targets = [
            Target { model: "n", ..TARGET },
            Target { version: 4, ..TARGET },
            Target { load: 12, ..TARGET },
            Target { composing: &[4, 6], ..TARGET },
            Target { composing: &[4], ..TARGET },
            Target { composing: &[], ..TARGET },
        ];
        for target in targets {
            assert!(keys.insert(RequestKey::of(&target, &plain()).unwrap()), "{target:?}");
        }
    }

    #[test]
    fn what_changes_no_answer_changes_no_key() {
        let options = RequestOptions {
            priority: 2,
            timeout: Some(std::time::Duration::from_secs(1)),
            timeline: true,
            empty_final_response: true,
            ..RequestOptions::default()
        };
        let same = ValidRequest {
            id: "other".to_owned(),
            options,
            received_at: Timestamp::from_nanos(9),
            deadline: Some(Timestamp::from_nanos(10)),
            // A slice of a larger message has the same contents.
            inputs: vec![
                Some(Tensor::new(DataType::Int32, Shape::new([2, 3]), Bytes::from(vec![7; 40]).slice(3..27)).unwrap()),
                None,
            ],
            ..plain()
        };
        assert_eq!(key(&plain()), key(&same));
    }

    #[test]
    fn requests_of_sequences_have_no_key() {
        let with = |options| RequestKey::of(&TARGET, &ValidRequest { options, ..plain() });
        assert_eq!(with(RequestOptions { sequence_id: SequenceId::Number(1), ..RequestOptions::default() }), None);
        assert_eq!(with(RequestOptions { sequence_start: true, ..RequestOptions::default() }), None);
        assert_eq!(with(RequestOptions { sequence_end: true, ..RequestOptions::default() }), None);
    }

    /// The parts of which a request is made up here.
    type Parts = (Vec<Option<(Vec<usize>, u8)>>, Vec<bool>, Vec<(String, String)>);

    fn parts() -> impl Strategy<Value = Parts> {
        let input = proptest::option::of((proptest::collection::vec(0..4usize, 0..4), 0..3u8));
        let parameter = ("[ab]{0,2}", "[ab]{0,2}");
        (
            proptest::collection::vec(input, 0..3),
            proptest::collection::vec(any::<bool>(), 0..3),
            proptest::collection::vec(parameter, 0..3),
        )
    }

    fn build((inputs, outputs, parameters): &Parts) -> ValidRequest {
        let input = |input: &Option<(Vec<usize>, u8)>| input.as_ref().map(|(sizes, fill)| tensor(DataType::Uint8, sizes, *fill));
        ValidRequest {
            inputs: inputs.iter().map(input).collect(),
            outputs: outputs.clone(),
            parameters: parameters.iter().map(|(name, text)| (name.clone(), Parameter::String(text.clone()))).collect(),
            ..plain()
        }
    }

    proptest! {
        /// Small alphabets make neighbors that differ only in where one part ends and the next begins.
        #[test]
        fn keys_are_equal_where_requests_are(first in parts(), second in parts()) {
            let (first, second) = (build(&first), build(&second));
            let same = first.inputs == second.inputs && first.outputs == second.outputs && first.parameters == second.parameters;
            prop_assert_eq!(key(&first) == key(&second), same);
        }
    }
}
