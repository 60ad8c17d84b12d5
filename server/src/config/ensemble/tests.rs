//! Graphs from configurations, and the text of everything that can be wrong with them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};

use crate::error::InferError;
use crate::request::VersionChoice;

use super::super::{Composing, EnsembleGraph, ModelConfig, Scheduling};

const A_AND_B: &str = r#"input [ { name: "A" data_type: TYPE_INT32 dims: [ 4 ] }, { name: "B" data_type: TYPE_INT32 dims: [ 4 ] } ]
    output [ { name: "C" data_type: TYPE_INT32 dims: [ 4 ] } ]"#;
const SIMPLE: &str = r#"step [ { model_name: "add" input_map [ { key: "X" value: "A" }, { key: "Y" value: "B" } ]
    output_map { key: "SUM" value: "C" } } ]"#;

fn parse(tensors: &str, scheduling: &str) -> Result<ModelConfig, String> {
    let text = format!("platform: \"ensemble\"\n{tensors}\nensemble_scheduling {{ {scheduling} }}");
    let written = proto::pbtxt::parse(&text, "config.pbtxt").map_err(|error| error.to_string())?;
    ModelConfig::parse(written, "e").map_err(|error| error.to_string())
}

fn graph(config: &ModelConfig) -> &EnsembleGraph {
    match &config.scheduling {
        Scheduling::Ensemble(graph) => graph,
        other => panic!("not an ensemble: {other:?}"),
    }
}

/// One line per step, in the order of the graph: `model@version X=A,Y=B > SUM=C`.
fn describe(graph: &EnsembleGraph) -> String {
    let mut text = String::new();
    for step in &graph.steps {
        let list = |tensors: &[super::StepTensor]| {
            tensors.iter().map(|each| format!("{}={}", each.name, graph.tensors[each.tensor])).collect::<Vec<_>>().join(",")
        };
        let version = match step.version {
            VersionChoice::Latest => "latest".to_owned(),
            VersionChoice::Exact(version) => version.to_string(),
        };
        writeln!(text, "{}@{version} {} > {}", step.model, list(&step.inputs), list(&step.outputs)).unwrap();
    }
    text
}

/// Writes `model X=A,Y=B > SUM=C` lines as the steps of a configuration.
fn steps(lines: &str) -> String {
    let map = |field: &str, text: &str| {
        text.trim().split(',').filter(|pair| !pair.is_empty()).fold(String::new(), |mut entries, pair| {
            let (key, value) = pair.split_once('=').unwrap();
            write!(entries, "{field} {{ key: \"{key}\" value: \"{value}\" }} ").unwrap();
            entries
        })
    };
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).fold(String::new(), |mut text, line| {
        let (left, outputs) = line.split_once('>').unwrap();
        let (model, inputs) = left.split_once(' ').unwrap();
        write!(text, "step {{ model_name: \"{model}\" {} {} }} ", map("input_map", inputs), map("output_map", outputs)).unwrap();
        text
    })
}

fn refused(scheduling: &str, expected: Expect) {
    expected.assert_eq(&parse(A_AND_B, scheduling).unwrap_err());
}

#[test]
fn sorts_steps_and_keeps_the_rest() {
    let config = parse(
        A_AND_B,
        &format!(
            "{} max_inflight_requests: 3",
            steps("last X=sum,Y=twice > SUM=C\nleft X=A,Y=B > SUM=sum\nright X=B,Y=B > SUM=twice")
        ),
    )
    .unwrap();
    let graph = graph(&config);
    expect![[r#"
        left@latest X=A,Y=B > SUM=sum
        right@latest X=B,Y=B > SUM=twice
        last@latest X=sum,Y=twice > SUM=C
    "#]]
    .assert_eq(&describe(graph));
    let names = |indices: &[usize]| indices.iter().map(|index| graph.tensors[*index].to_string()).collect::<Vec<_>>();
    assert_eq!(names(&graph.inputs), ["A", "B"]);
    assert_eq!(names(&graph.outputs), ["C"]);
    assert_eq!(graph.max_inflight.map(std::num::NonZeroUsize::get), Some(3));
    assert_eq!(graph.max_requests.get(), 4096);
}

#[test]
fn reads_versions() {
    for (written, expected) in
        [("", "latest"), ("model_version: 0", "latest"), ("model_version: -1", "latest"), ("model_version: 7", "7")]
    {
        let scheduling = SIMPLE.replace("input_map", &format!("{written} input_map"));
        let config = parse(A_AND_B, &scheduling).unwrap();
        assert_eq!(describe(graph(&config)), format!("add@{expected} X=A,Y=B > SUM=C\n"));
    }
    refused(
        &SIMPLE.replace("input_map", "model_version: -2 input_map"),
        expect!["'model_version' must be a version >= 1, or -1 for the latest, got -2 in step 0 of ensemble 'e'"],
    );
}

#[test]
fn an_input_may_be_an_output_as_well() {
    let tensors = A_AND_B.replace("output [", "output [ { name: \"A\" data_type: TYPE_INT32 dims: [ 4 ] },");
    let config = parse(&tensors, SIMPLE).unwrap();
    assert_eq!(graph(&config).outputs[0], graph(&config).inputs[0]);
}

#[test]
fn refuses_steps_that_lack_something() {
    refused("", expect!["must specify 'step' for ensemble 'e'"]);
    refused(&steps("add X=A,Y=B > SUM=C\nadd  > "), expect!["must specify 'input_map' in step 1 of ensemble 'e'"]);
    refused(&steps("add X=A,Y=B > "), expect!["must specify 'output_map' in step 0 of ensemble 'e'"]);
    refused(&SIMPLE.replace("\"add\"", "\"\""), expect!["must specify 'model_name' in step 0 of ensemble 'e'"]);
    refused(
        &SIMPLE.replace("input_map", "model_namespace: \"n\" input_map"),
        expect![
            "'model_namespace' is not supported by this server, got 'n' in step 0 of ensemble 'e'; remove it, and give models names that differ"
        ],
    );
}

#[test]
fn refuses_graphs_that_do_not_connect() {
    refused(
        &steps("add X=A,Y=B > SUM=C\nadd X=A,Y=B > SUM=C"),
        expect!["ensemble tensor 'C' can appear in an output map only once for ensemble 'e' step 1"],
    );
    refused(
        &steps("add X=A,Y=B > SUM=C,DIFF=A"),
        expect!["ensemble tensor 'A' can appear in an output map only once for ensemble 'e' step 0"],
    );
    refused(&steps("add X=A,Y=A > SUM=C"), expect!["ensemble input 'B' for ensemble e is not used"]);
    refused(&steps("add X=A,Y=B > SUM=D"), expect!["ensemble output 'C' for ensemble e is not used"]);
    refused(&steps("add X=A,Y=B > SUM=d\nadd X=C,Y=d > SUM=f"), expect!["output 'C' for ensemble 'e' is not written"]);
    refused(
        &steps("add X=A,Y=B > SUM=d\nadd X=d,Y=nowhere > SUM=C"),
        expect!["output 'C' for ensemble 'e' is not written: at least one of its depending tensors, 'nowhere', is not connected"],
    );
    refused(
        &steps("add X=A,Y=y > SUM=x\nadd X=x,Y=B > DIFF=y,SUM=C"),
        expect!["output 'C' for ensemble 'e' is not written: at least one of its depending tensors, 'x', is not connected"],
    );
    refused(&steps("add X=A,Y=B > DIFF=left,SUM=C"), expect!["ensemble tensor 'left' is unused in ensemble 'e'"]);
    refused(
        &steps("add X=A,Y=B > SUM=C\nadd X=loop,Y=A > SUM=loop"),
        expect!["ensemble tensor 'loop' is unused in ensemble 'e'"],
    );
}

#[test]
fn refuses_what_an_ensemble_must_not_have() {
    let tensors =
        format!("{A_AND_B} instance_group {{ count: 1 }} optimization {{ }} model_warmup {{ name: \"w\" batch_size: 1 }}");
    let text = parse(&tensors, SIMPLE).unwrap_err();
    for expected in [
        "instance group should not be specified for ensemble 'e'",
        "optimization should not be specified for ensemble 'e'",
        "model_warmup can not be specified for ensemble 'e'",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let written =
        proto::pbtxt::parse(&format!("backend: \"builtin\" {A_AND_B} ensemble_scheduling {{ {SIMPLE} }}"), "c").unwrap();
    expect!["ensemble scheduling cannot be set for model 'e' whose platform is not ensemble"]
        .assert_eq(&ModelConfig::parse(written, "e").unwrap_err().to_string());
}

/// The composing models of the checks below.
fn models() -> BTreeMap<&'static str, Composing> {
    let two = |more: &str, size: u32, dims: &str| {
        format!(
            "backend: \"builtin\" max_batch_size: {size} {more}
             input [ {{ name: \"X\" data_type: TYPE_INT32 dims: {dims} }}, {{ name: \"Y\" data_type: TYPE_INT32 dims: {dims} }},
                     {{ name: \"O\" data_type: TYPE_INT32 dims: [ 1 ] optional: true }} ]
             output [ {{ name: \"SUM\" data_type: TYPE_INT32 dims: {dims} }}, {{ name: \"TEXT\" data_type: TYPE_STRING dims: {dims} }} ]"
        )
    };
    let decoupled = "model_transaction_policy { decoupled: true }";
    [
        ("add", two("", 0, "[ 4 ]")),
        ("batching", two("", 8, "[ 4 ]")),
        ("wide", two("", 0, "[ 5 ]")),
        ("any", two("", 0, "[ -1 ]")),
        ("rows", two("", 0, "[ -1, 4 ]")),
        ("stream", two(decoupled, 0, "[ 4 ]")),
    ]
    .into_iter()
    .map(|(name, text)| {
        let written = proto::pbtxt::parse(&text, "config.pbtxt").unwrap();
        (name, Composing { config: Arc::new(ModelConfig::parse(written, name).unwrap()) })
    })
    .collect()
}

/// `decoupled` or `plain`, or what does not fit.
fn check(size: u32, lines: &str) -> String {
    let config = parse(&format!("max_batch_size: {size} {A_AND_B}"), &steps(lines)).unwrap();
    let models = models();
    let resolve = |model: &str, _| models.get(model).cloned().ok_or_else(|| InferError::UnknownModel { model: model.to_owned() });
    match graph(&config).check(&config, &resolve) {
        Ok(checked) if checked.decoupled => "decoupled".to_owned(),
        Ok(_) => "plain".to_owned(),
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn accepts_models_that_fit() {
    for (size, lines, expected) in [
        (0, "add X=A,Y=B > SUM=C", "plain"),
        (8, "batching X=A,Y=B > SUM=C", "plain"),
        (8, "add X=A,Y=B > SUM=C", "plain"),
        (0, "batching X=A,Y=B > SUM=C", "plain"),
        (8, "rows X=A,Y=B > SUM=C", "plain"),
        (0, "any X=A,Y=B > SUM=C", "plain"),
        (0, "stream X=A,Y=B > SUM=x\nadd X=x,Y=B > SUM=C", "decoupled"),
        (0, "stream X=A,Y=B > SUM=x\nstream X=x,Y=x > SUM=C", "decoupled"),
    ] {
        assert_eq!(check(size, lines), expected, "{lines}");
    }
}

#[test]
fn refuses_models_that_do_not_fit() {
    let cases = [
        (0, "nobody X=A,Y=B > SUM=C"),
        (0, "add X=A,Y=B,Z=A > SUM=C"),
        (0, "add X=A,Y=B > MORE=C"),
        (0, "add X=A,Y=B,O=A > SUM=C"),
        (0, "add X=A > SUM=x\nany X=x,Y=B > SUM=C"),
        (0, "add X=A,Y=B > TEXT=C"),
        (0, "wide X=A,Y=B > SUM=C"),
        (16, "batching X=A,Y=B > SUM=C"),
        (0, "stream X=A,Y=B > SUM=x\nstream X=A,Y=B > SUM=y\nadd X=x,Y=y > SUM=C"),
    ];
    let texts = cases.iter().map(|(size, lines)| check(*size, lines)).collect::<Vec<_>>().join("\n");
    expect![[r#"
        ensemble 'e' depends on 'nobody' which has no loaded version. Model 'nobody' loading failed with error: Request for unknown model: 'nobody' is not found
        in ensemble e, ensemble tensor A is mapping to non-existing input Z in model add
        in ensemble e, ensemble tensor C is mapped from non-existing output MORE in model add
        in ensemble e, ensemble tensor A: inconsistent shape: [1] is inferred from model add while [4] is inferred from model e
        in ensemble e, input Y in model add is not mapped to any ensemble tensors
        in ensemble e, ensemble tensor C: inconsistent data type: TYPE_STRING is inferred from model add while TYPE_INT32 is inferred from model e
        in ensemble e, ensemble tensor A: inconsistent shape: [5] is inferred from model wide while [4] is inferred from model e
        ensemble e allows maximum batch size 16, but it contains model batching which only allows maximum batch size to be 8
        in ensemble e, step of model 'add' receives inputs originated from different decoupled models"#]].assert_eq(&texts);
}

#[test]
fn ensembles_nest_only_so_deep() {
    let config = parse(A_AND_B, &steps("add X=A,Y=B > SUM=C")).unwrap();
    let check = |nesting: usize| {
        let models = models();
        let resolve = |model: &str, _| {
            let inner = ModelConfig { nesting, ..ModelConfig::clone(&models[model].config) };
            Ok(Composing { config: Arc::new(inner) })
        };
        graph(&config).check(&config, &resolve).map(|checked| checked.nesting)
    };
    assert_eq!((check(0), check(31)), (Ok(1), Ok(32)));
    expect!["ensemble 'e' has ensembles within ensembles, 33 levels deep; expected at most 32: write the steps of an inner one into the outer"]
        .assert_eq(&check(32).unwrap_err().to_string());
}

#[test]
fn refuses_outputs_of_different_decoupled_models() {
    let tensors = A_AND_B.replace("output [", "output [ { name: \"D\" data_type: TYPE_INT32 dims: [ 4 ] },");
    let config = parse(&tensors, &steps("stream X=A,Y=B > SUM=C\nstream X=B,Y=A > SUM=D")).unwrap();
    let models = models();
    let problem = graph(&config).check(&config, &|model, _| Ok(models[model].clone())).unwrap_err();
    expect!["in ensemble e, step of model 'e' receives inputs originated from different decoupled models"]
        .assert_eq(&problem.to_string());
}

#[test]
fn tells_a_missing_version_from_a_missing_model() {
    let config = parse(A_AND_B, &SIMPLE.replace("input_map", "model_version: 7 input_map")).unwrap();
    let problem = graph(&config)
        .check(&config, &|model, _| Err(InferError::UnknownVersion { model: model.to_owned(), version: 7 }))
        .unwrap_err();
    expect!["ensemble 'e' depends on 'add' whose required version 7 is not loaded."].assert_eq(&problem.to_string());
}
