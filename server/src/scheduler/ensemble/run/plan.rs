//! What one request needs of its ensemble's graph.

use crate::config::EnsembleGraph;

/// The iteration in which a tensor comes to be or a step runs: that of the request itself, or one for each
/// response of a decoupled step (by position).
pub(crate) type Scope = Option<usize>;

/// What a run must know of the composing model of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepFacts {
    /// It answers any number of times.
    pub(crate) decoupled: bool,
    /// Per mapped input: whether the model can do without.
    pub(crate) optional: Vec<bool>,
}

/// One step of the plan.
#[derive(Clone, Debug)]
pub(super) struct PlannedStep {
    pub(super) needed: bool,
    pub(super) decoupled: bool,
    pub(super) scope: Scope,
    /// Its tensors, and whether the model can do without.
    pub(super) inputs: Vec<(usize, bool)>,
    /// Per mapped output: its tensor, where anybody needs it.
    pub(super) outputs: Vec<Option<usize>>,
}

/// One tensor of the plan.
#[derive(Clone, Debug, Default)]
pub(super) struct PlannedTensor {
    pub(super) scope: Scope,
    /// The needed steps that read it, each once.
    pub(super) readers: Vec<usize>,
    pub(super) requested: bool,
    /// How often it is used within its own scope, after which it can be dropped. `None` where a narrower
    /// scope uses it, any number of times.
    pub(super) uses: Option<usize>,
}

/// The graph without the steps that no requested output needs, and the scope of everything in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) steps: Vec<PlannedStep>,
    pub(super) tensors: Vec<PlannedTensor>,
    /// Per input of the ensemble: its tensor.
    pub(super) inputs: Vec<usize>,
    /// Per requested output: its tensor.
    pub(super) outputs: Vec<usize>,
    /// Where the ensemble's responses are made.
    pub(super) scope: Scope,
}

/// Per step: whether any output that is requested (a flag for each output of the ensemble) needs it.
pub(crate) fn needed_steps(graph: &EnsembleGraph, requested: &[bool]) -> Vec<bool> {
    let mut wanted = vec![false; graph.tensors.len()];
    for (tensor, _) in graph.outputs.iter().zip(requested).filter(|(_, requested)| **requested) {
        wanted[*tensor] = true;
    }
    let mut needed = vec![false; graph.steps.len()];
    // Readers stand behind writers: from the end, every reader has been seen before what it reads.
    for (position, step) in graph.steps.iter().enumerate().rev() {
        if step.outputs.iter().any(|output| wanted[output.tensor]) {
            needed[position] = true;
            step.inputs.iter().for_each(|input| wanted[input.tensor] = true);
        }
    }
    needed
}

impl Plan {
    /// Plans a request for these outputs; `facts` holds those of every needed step.
    pub(crate) fn new(graph: &EnsembleGraph, requested: &[bool], facts: &[Option<StepFacts>]) -> Self {
        let mut tensors = vec![PlannedTensor::default(); graph.tensors.len()];
        let outputs: Vec<usize> =
            graph.outputs.iter().zip(requested).filter(|(_, requested)| **requested).map(|(tensor, _)| *tensor).collect();
        outputs.iter().for_each(|tensor| tensors[*tensor].requested = true);
        for (position, step) in graph.steps.iter().enumerate().filter(|(position, _)| facts[*position].is_some()) {
            for input in &step.inputs {
                let readers = &mut tensors[input.tensor].readers;
                if readers.last() != Some(&position) {
                    readers.push(position);
                }
            }
        }
        let mut plan =
            Self { steps: Vec::with_capacity(graph.steps.len()), tensors, inputs: graph.inputs.clone(), outputs, scope: None };
        for (position, step) in graph.steps.iter().enumerate() {
            let facts_here = facts[position].clone().unwrap_or_default();
            let scope = plan.deepest(step.inputs.iter().map(|input| input.tensor));
            let optional = |input: usize| facts_here.optional.get(input).copied().unwrap_or(false);
            let inputs = step.inputs.iter().enumerate().map(|(index, input)| (input.tensor, optional(index))).collect();
            let origin = if facts_here.decoupled { Some(position) } else { scope };
            let mut outputs = Vec::with_capacity(step.outputs.len());
            for output in &step.outputs {
                let tensor = &mut plan.tensors[output.tensor];
                tensor.scope = origin;
                outputs.push((tensor.requested || !tensor.readers.is_empty()).then_some(output.tensor));
            }
            let needed = facts[position].is_some();
            plan.steps.push(PlannedStep { needed, decoupled: facts_here.decoupled, scope, inputs, outputs });
        }
        plan.scope = plan.deepest(plan.outputs.iter().copied());
        plan.count_uses();
        plan
    }

    /// The narrowest scope of several tensors.
    fn deepest(&self, tensors: impl Iterator<Item = usize>) -> Scope {
        tensors.map(|tensor| self.tensors[tensor].scope).max_by_key(|scope| self.depth(*scope)).flatten()
    }

    fn depth(&self, mut scope: Scope) -> usize {
        let mut depth = 0;
        while let Some(step) = scope {
            depth += 1;
            scope = self.steps[step].scope;
        }
        depth
    }

    fn count_uses(&mut self) {
        for index in 0..self.tensors.len() {
            let tensor = &self.tensors[index];
            let in_scope = tensor.readers.iter().all(|reader| self.steps[*reader].scope == tensor.scope)
                && (!tensor.requested || self.scope == tensor.scope);
            let uses = in_scope.then(|| tensor.readers.len() + usize::from(tensor.requested));
            self.tensors[index].uses = uses;
        }
    }

    /// Whether the step runs for each response of a decoupled one.
    pub(crate) fn is_iterated(&self, step: usize) -> bool {
        self.steps[step].scope.is_some()
    }

    /// The needed steps that run once for each response of this decoupled step, or of one behind it.
    pub(crate) fn behind(&self, producer: usize) -> impl Iterator<Item = usize> + '_ {
        self.steps
            .iter()
            .enumerate()
            .filter(move |(_, step)| step.needed && self.is_within(step.scope, producer))
            .map(|(index, _)| index)
    }

    fn is_within(&self, mut scope: Scope, producer: usize) -> bool {
        while let Some(step) = scope {
            if step == producer {
                return true;
            }
            scope = self.steps[step].scope;
        }
        false
    }

    /// The decoupled step whose responses the step reads itself.
    pub(crate) fn feeder(&self, step: usize) -> Option<usize> {
        let step = &self.steps[step];
        step.scope.filter(|producer| {
            let written = &self.steps[*producer].outputs;
            step.inputs.iter().any(|(tensor, _)| written.contains(&Some(*tensor)))
        })
    }

    /// Per mapped output of the step: whether anybody needs it.
    pub(crate) fn used_outputs(&self, step: usize) -> impl Iterator<Item = bool> + '_ {
        self.steps[step].outputs.iter().map(Option::is_some)
    }
}
