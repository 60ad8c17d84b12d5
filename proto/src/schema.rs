//! The descriptors of our messages at run time, and the way between generated and dynamic messages.
//!
//! Text and JSON are read and written by field descriptors, so that neither can forget a field. A failure here is
//! a fault of the build (the descriptors are made from the same files as the types), never of an input.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, Value};

use crate::inference::ModelConfig;

static MODEL_CONFIG: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the build script wrote valid descriptors");
    pool.get_message_by_name("inference.ModelConfig").expect("model_config.proto declares ModelConfig")
});

/// The descriptor of `ModelConfig`.
pub(crate) fn model_config() -> MessageDescriptor {
    MODEL_CONFIG.clone()
}

/// The dynamic form of `config`.
pub(crate) fn to_dynamic(config: &ModelConfig) -> DynamicMessage {
    let bytes = config.encode_to_vec();
    DynamicMessage::decode(model_config(), bytes.as_slice()).expect("an encoded ModelConfig decodes as ModelConfig")
}

/// The generated form of `message`, which must be a `ModelConfig`.
pub(crate) fn from_dynamic(message: &DynamicMessage) -> ModelConfig {
    message.transcode_to().expect("an encoded ModelConfig decodes as ModelConfig")
}

/// The fields of a message in the order in which its `.proto` file declares them.
///
/// That order was chosen for readers (name first, `dims` after `data_type`); field numbers were not.
pub(crate) fn fields(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let declared = &message.descriptor_proto().field;
    declared.iter().filter_map(|field| message.get_field_by_name(field.name())).collect()
}

/// The entries of a map field in the order of their keys, so that equal messages are written equally.
pub(crate) fn sorted_entries(map: &HashMap<MapKey, Value>) -> Vec<(&MapKey, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|(a, _), (b, _)| match (a, b) {
        (MapKey::U64(a), MapKey::U64(b)) => a.cmp(b),
        (MapKey::I64(a), MapKey::I64(b)) => a.cmp(b),
        (MapKey::U32(a), MapKey::U32(b)) => a.cmp(b),
        (MapKey::I32(a), MapKey::I32(b)) => a.cmp(b),
        _ => key_text(a).cmp(&key_text(b)),
    });
    entries
}

/// A map key as text, without quotes.
pub(crate) fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// The name of a message or enum without the package that all of ours share.
pub(crate) fn short_name(full_name: &str) -> &str {
    full_name.strip_prefix("inference.").unwrap_or(full_name)
}
