//! Forwarding of request headers: those whose names match a pattern reach the model as parameters.

use regex::{Regex, RegexBuilder};
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use crate::error::InferError;
use crate::observe::trace;
use crate::request::{Parameter, Parameters};

/// Names that mean something to the protocol, so that no header may take them.
const RESERVED: [&str; 7] =
    ["sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output"];

/// Which headers are forwarded; by default none.
#[derive(Clone, Debug, Default)]
pub struct HeaderForwarding(Option<Regex>);

impl HeaderForwarding {
    /// Forwards the headers whose names match `pattern` somewhere, in upper or lower case (a pattern that
    /// begins with `(?-i)` tells them apart; header names arrive in lower case). An empty pattern forwards none.
    ///
    /// # Errors
    /// The pattern is no regular expression.
    pub fn parse(pattern: &str) -> Result<Self, regex::Error> {
        if pattern.is_empty() {
            return Ok(Self::default());
        }
        RegexBuilder::new(pattern).case_insensitive(true).build().map(|regex| Self(Some(regex)))
    }

    /// The forwarded headers of a call. Binary headers, and text that is not ASCII, are never forwarded.
    ///
    /// # Errors
    /// [`InferError::ReservedHeader`].
    pub(super) fn parameters(&self, metadata: &MetadataMap) -> Result<Parameters, InferError> {
        let mut parameters = Parameters::new();
        let Some(pattern) = &self.0 else {
            return Ok(parameters);
        };
        for header in metadata.iter() {
            let KeyAndValueRef::Ascii(name, value) = header else { continue };
            let (name, Ok(text)) = (name.as_str(), value.to_str()) else { continue };
            if !pattern.is_match(name) {
                continue;
            }
            if RESERVED.contains(&name) || name.starts_with("triton_") {
                return Err(InferError::ReservedHeader { header: name.to_owned() });
            }
            parameters.insert(name.to_owned(), Parameter::String(text.to_owned()));
        }
        Ok(parameters)
    }
}

/// The header by which a client's own trace is found, where requests are traced at all.
pub(super) fn traceparent(metadata: &MetadataMap) -> Option<String> {
    if !trace::requests_have_spans() {
        return None;
    }
    metadata.get("traceparent")?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(pattern: &str, headers: &[(&'static str, &'static str)]) -> Result<Vec<String>, InferError> {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(*name, value.parse().unwrap());
        }
        HeaderForwarding::parse(pattern).unwrap().parameters(&metadata).map(|found| found.into_keys().collect())
    }

    #[test]
    fn a_pattern_matches_anywhere_and_in_any_case() {
        let headers = [("x-tenant-id", "a"), ("x-trace", "b"), ("other", "c")];
        assert_eq!(forwarded("TENANT", &headers).unwrap(), ["x-tenant-id"]);
        assert_eq!(forwarded("^x-", &headers).unwrap(), ["x-tenant-id", "x-trace"]);
        assert_eq!(forwarded("(?-i)TENANT", &headers).unwrap(), Vec::<String>::new());
        assert_eq!(forwarded("", &headers).unwrap(), Vec::<String>::new());
        assert!(HeaderForwarding::parse("(").is_err());
    }

    #[test]
    fn reserved_names_are_refused_only_where_they_match() {
        let headers = [("priority", "1"), ("triton_x", "2")];
        assert_eq!(forwarded("^x-", &headers).unwrap(), Vec::<String>::new());
        for pattern in ["prio", "triton_"] {
            let error = forwarded(pattern, &headers).unwrap_err().to_string();
            assert!(error.ends_with("is reserved for Triton usage and cannot be forwarded."), "{error}");
        }
    }
}
