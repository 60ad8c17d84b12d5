//! Whether a model's answers may serve more than one request: the response cache, and single flight.

use std::collections::BTreeMap;

use proto::inference::{self as wire, model_config::SchedulingChoice};

use crate::error::ConfigProblem;

/// Name of the parameter that turns single flight on.
pub(super) const SINGLE_FLIGHT: &str = "single_flight";

/// What of a model's answers is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Answers are kept in the server's response cache, where it has one.
    pub response_cache: bool,
    /// Identical requests that are under way at the same time run once.
    pub single_flight: bool,
}

impl Reuse {
    /// Reads `response_cache` and the parameter `single_flight`. An answer can serve another request only where it
    /// is one message that depends on nothing but the request.
    pub(super) fn parse(
        written: &wire::ModelConfig,
        parameters: &BTreeMap<String, String>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Self {
        let model = &written.name;
        let reuse = Self {
            response_cache: written.response_cache.is_some_and(|cache| cache.enable),
            single_flight: parse_flag(model, parameters, problems),
        };
        let is_decoupled = written.model_transaction_policy.is_some_and(|policy| policy.decoupled);
        let is_sequential = matches!(written.scheduling_choice, Some(SchedulingChoice::SequenceBatching(_)));
        for (is_set, with) in [(is_decoupled, "a decoupled transaction policy"), (is_sequential, "sequence_batching")] {
            if is_set {
                problems.extend(reuse.fields().map(|field| ConfigProblem::Reuse { model: model.clone(), field, with }));
            }
        }
        reuse
    }

    /// The fields of the configuration that ask for any of it.
    pub(super) fn fields(self) -> impl Iterator<Item = &'static str> {
        [(self.response_cache, "response_cache"), (self.single_flight, "parameters['single_flight']")]
            .into_iter()
            .filter_map(|(is_set, field)| is_set.then_some(field))
    }
}

fn parse_flag(model: &str, parameters: &BTreeMap<String, String>, problems: &mut Vec<ConfigProblem>) -> bool {
    match parameters.get(SINGLE_FLIGHT).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(got) => {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("parameters['{SINGLE_FLIGHT}']"),
                expected: "true or false",
                got: got.to_owned(),
            });
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::Reuse;
    use crate::config::ModelConfig;

    const PLAIN: &str = "backend: 'builtin' input { name: 'I' data_type: TYPE_FP32 dims: 1 } \
                         output { name: 'O' data_type: TYPE_FP32 dims: 1 } ";

    fn parse(extra: &str) -> Result<Reuse, String> {
        let written = proto::pbtxt::parse(&format!("{PLAIN}{extra}"), "config.pbtxt").expect("a text that parses");
        ModelConfig::parse(written, "m").map(|config| config.reuse).map_err(|error| error.to_string())
    }

    fn flag(value: &str) -> String {
        format!("parameters {{ key: 'single_flight' value {{ string_value: '{value}' }} }} ")
    }

    fn refused(extra: &str, expected: Expect) {
        expected.assert_eq(&parse(extra).expect_err("it is refused"));
    }

    #[test]
    fn both_are_off_unless_asked_for() {
        let cached = "response_cache { enable: true }";
        assert_eq!(parse(""), Ok(Reuse { response_cache: false, single_flight: false }));
        assert_eq!(parse("response_cache { }"), Ok(Reuse { response_cache: false, single_flight: false }));
        assert_eq!(parse(cached), Ok(Reuse { response_cache: true, single_flight: false }));
        assert_eq!(parse(&flag("true")), Ok(Reuse { response_cache: false, single_flight: true }));
        assert_eq!(parse(&flag("false")), Ok(Reuse { response_cache: false, single_flight: false }));
        assert_eq!(parse(&format!("{cached} {}", flag("true"))), Ok(Reuse { response_cache: true, single_flight: true }));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let decoupled = "model_transaction_policy { decoupled: true } response_cache { enable: true } ";
        refused(
            decoupled,
            expect![
                "'response_cache' cannot be used with a decoupled transaction policy for model 'm', because an answer serves other requests only where it is a single one that depends on nothing but its request; turn one of the two off"
            ],
        );
        let both = format!("{decoupled}{}", flag("true"));
        assert_eq!(parse(&both).expect_err("it is refused").matches("cannot be used with").count(), 2);
        let sequence = format!("max_batch_size: 2 sequence_batching {{ }} {}", flag("true"));
        let error = parse(&sequence).expect_err("it is refused");
        assert!(error.contains("'parameters['single_flight']' cannot be used with sequence_batching"), "{error}");
        refused(&flag("yes"), expect!["'parameters['single_flight']' must be true or false, got yes for model 'm'"]);
    }
}
