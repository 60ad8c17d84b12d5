//! Start-up, load, unload, shutdown: in which order models are loaded, and what becomes of those built on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use crate::error::{ControlError, EnsembleProblem};

use super::dependencies::{self, LoadOrder};
use super::overrides::{self, Overlay};
use super::records::{Presence, UNLOADED};
use super::scan::Fingerprint;
use super::table::Requirement;
use super::{ControlMode, LoadParameters, Repository, StartupError};

/// One load or unload at a time per model; others wait here.
#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Gates {
    /// Waits until nobody else loads or unloads the model.
    pub(super) async fn enter(&self, model: &str) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Names come from clients: gates that nobody holds must not pile up.
            gates.retain(|_, gate| gate.strong_count() > 0);
            gates.get(model).and_then(Weak::upgrade).unwrap_or_else(|| {
                let gate = Arc::default();
                gates.insert(model.to_owned(), Arc::downgrade(&gate));
                gate
            })
        };
        gate.lock_owned().await
    }
}

/// Why a model is being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was asked for.
    Named,
    /// An ensemble that was asked for needs it.
    Along,
    /// A composing model has come back or has changed.
    Revival,
}

/// One load that is to be done.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) cause: Cause,
    /// A new override.
    pub(super) overlay: Option<Overlay>,
    /// Load even if nothing has changed.
    pub(super) force: bool,
}

/// What a load that succeeded has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It serves already, as it is.
    Unchanged,
    /// New versions serve.
    Swapped,
}

/// Loads that are under way or done, by model.
type Loads = BTreeMap<String, watch::Receiver<Option<Result<Outcome, ControlError>>>>;

impl Repository {
    /// Loads the start-up set, composing models first, and waits until each model is ready or has failed.
    ///
    /// # Errors
    /// Every model that failed. The others serve.
    pub async fn load_startup(&self) -> Result<(), StartupError> {
        let Some(this) = self.this.upgrade() else {
            return Ok(());
        };
        let ended = tokio::spawn(async move { this.start_up().await }).await;
        let failures = ended.unwrap_or_else(|error| vec![("start-up".to_owned(), format!("the start-up was ended: {error}"))]);
        if failures.is_empty() { Ok(()) } else { Err(StartupError { failures }) }
    }

    async fn start_up(self: Arc<Self>) -> Vec<(String, String)> {
        let reading = self.reading.clone();
        let catalog = tokio::task::spawn_blocking(move || reading.catalog()).await.unwrap_or_default();
        let mut failures = catalog.unreadable;
        let listed = &self.options.startup_models;
        let all = self.options.control_mode == ControlMode::None || listed.iter().any(|name| name == "*");
        let names: BTreeSet<String> = if all {
            catalog.models.into_keys().chain(listed.iter().filter(|name| *name != "*").cloned()).collect()
        } else {
            listed.iter().cloned().collect()
        };
        let results = self.run(names.into_iter().collect(), None).await;
        let strict = self.options.strict_readiness;
        self.startup_failed.store(strict && !failures.is_empty(), Ordering::Release);
        self.change(|records| {
            for (name, result) in &results {
                let record = records.entry(name);
                record.required = match result {
                    Ok(_) => Requirement::Working,
                    Err(_) if strict => Requirement::Failed,
                    Err(_) => Requirement::None,
                };
                if let Err(error) = result {
                    record.failure.get_or_insert_with(|| error.to_string());
                }
            }
            // Within the same change, so that whoever waits for readiness sees both.
            self.startup_done.store(true, Ordering::Release);
        });
        failures.extend(results.into_iter().filter_map(|(name, result)| Some((name, result.err()?.to_string()))));
        failures
    }

    /// Loads or reloads a model, its composing models first, and waits until it is ready. It is carried out to
    /// the end even if the caller stops waiting.
    ///
    /// # Errors
    /// Whatever keeps it from being ready; what served before still does.
    pub async fn load(&self, name: &str, parameters: LoadParameters) -> Result<(), ControlError> {
        self.check_control()?;
        check_name(name)?;
        let this = self.this.upgrade().ok_or(ControlError::ServerExiting)?;
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let overlay = this.overlay(&name, parameters).await?;
            let mut results = this.run(vec![name.clone()], overlay).await;
            results.remove(&name).map_or(Err(ControlError::NotFound { model: name, reason: None }), |result| result.map(drop))
        });
        task.await.unwrap_or(Err(ControlError::ServerExiting))
    }

    fn check_control(&self) -> Result<(), ControlError> {
        if self.exiting.load(Ordering::Acquire) {
            Err(ControlError::ServerExiting)
        } else if self.options.control_mode == ControlMode::None {
            Err(ControlError::NotExplicit)
        } else {
            Ok(())
        }
    }

    /// Checks what a load request brings along, and puts files where they can be loaded from.
    async fn overlay(&self, model: &str, parameters: LoadParameters) -> Result<Option<Overlay>, ControlError> {
        let LoadParameters { config, files } = parameters;
        let Some(config) = config else {
            if files.is_empty() {
                return Ok(None);
            }
            let reason = "'file:' parameters need a 'config' parameter beside them".to_owned();
            return Err(ControlError::NotFound { model: model.to_owned(), reason: Some(reason) });
        };
        proto::json::from_json(&config).map_err(|error| ControlError::BadOverride { reason: error.to_string() })?;
        let files = if files.is_empty() {
            None
        } else {
            let model = model.to_owned();
            let written = tokio::task::spawn_blocking(move || overrides::write_files(&model, &files)).await;
            Some(written.map_err(|_| ControlError::ServerExiting)??)
        };
        Ok(Some(Overlay { number: self.next_number(), config: config.into(), files, disk: Fingerprint::NONE }))
    }

    /// Loads models and all that they depend on; each as soon as its composing models are done. An override
    /// belongs to the first name.
    async fn run(
        self: &Arc<Self>,
        names: Vec<String>,
        overlay: Option<Overlay>,
    ) -> BTreeMap<String, Result<Outcome, ControlError>> {
        let (this, named, first_overlay) = (Arc::clone(self), names.clone(), overlay.clone());
        let ordered = tokio::task::spawn_blocking(move || {
            dependencies::order(&named, |model| {
                let overlay = first_overlay.as_ref().filter(|_| named.first().is_some_and(|first| first == model));
                this.composing_models(model, overlay)
            })
        });
        let order = ordered.await.unwrap_or_default();
        let mut loads = Loads::new();
        let mut tasks: Vec<(String, JoinHandle<Result<Outcome, ControlError>>)> = Vec::new();
        for name in &order.models {
            let cause = if names.contains(name) { Cause::Named } else { Cause::Along };
            let overlay = overlay.clone().filter(|_| names.first() == Some(name));
            let wish = Wish { name: name.clone(), cause, overlay, force: false };
            tasks.push((name.clone(), self.spawn_load(wish, &order, &mut loads)));
        }
        let mut results = BTreeMap::new();
        for (name, task) in tasks {
            results.insert(name, task.await.unwrap_or(Err(ControlError::ServerExiting)));
        }
        let swapped = results.iter().filter(|(_, result)| **result == Ok(Outcome::Swapped)).map(|(name, _)| name.clone());
        self.settle(swapped.collect()).await;
        results
    }

    /// Starts one load, which first waits for those that it depends on.
    fn spawn_load(
        self: &Arc<Self>,
        wish: Wish,
        order: &LoadOrder,
        loads: &mut Loads,
    ) -> JoinHandle<Result<Outcome, ControlError>> {
        let this = Arc::clone(self);
        let circle = order.circular.get(&wish.name).cloned();
        // A circle has no order; its models fail without waiting for each other.
        let waits: Vec<_> = order
            .dependencies
            .get(&wish.name)
            .filter(|_| circle.is_none())
            .into_iter()
            .flatten()
            .filter_map(|dependency| Some((dependency.clone(), loads.get(dependency)?.clone())))
            .collect();
        let (sender, receiver) = watch::channel(None);
        loads.insert(wish.name.clone(), receiver);
        tokio::spawn(async move {
            let mut failures = BTreeMap::new();
            for (dependency, mut load) in waits {
                if let Ok(result) = load.wait_for(Option::is_some).await
                    && let Some(Err(error)) = result.as_ref()
                {
                    failures.insert(dependency, error.to_string());
                }
            }
            let result = match circle {
                Some(path) => Err(this.refuse_circle(&wish, path)),
                None => this.load_one(wish, &failures).await,
            };
            sender.send_replace(Some(result.clone()));
            result
        })
    }

    fn refuse_circle(&self, wish: &Wish, path: String) -> ControlError {
        let reason = EnsembleProblem::Circular { path }.to_string();
        tracing::error!(model = %wish.name, %reason, "the model failed to load");
        self.change(|records| records.entry(&wish.name).failure = Some(reason.clone()));
        version_failure(&wish.name, &[(1, reason)])
    }

    /// After loads: ensembles built on what was loaded are compared with it anew, and those that were only
    /// waiting for it come back.
    async fn settle(self: &Arc<Self>, swapped: Vec<String>) {
        let mut pending = swapped;
        let mut done: BTreeSet<String> = BTreeSet::new();
        while let Some(model) = pending.pop() {
            // The model itself as well: what it is made of may have changed while it was being loaded.
            let affected: Vec<String> = self.lock().dependents(&model).into_iter().chain([model]).collect();
            for ensemble in affected {
                let Some(force) = self.needs_reload(&ensemble) else {
                    continue;
                };
                if !done.insert(ensemble.clone()) {
                    continue;
                }
                let wish = Wish { name: ensemble.clone(), cause: Cause::Revival, overlay: None, force };
                if self.load_one(wish, &BTreeMap::new()).await == Ok(Outcome::Swapped) {
                    pending.push(ensemble);
                }
            }
        }
    }

    /// Whether an ensemble should be loaded because its composing models have changed, and if so whether
    /// although it serves. One that no longer fits them is taken out of service.
    fn needs_reload(&self, ensemble: &str) -> Option<bool> {
        let (presence, served) = {
            let records = self.lock();
            let record = records.get(ensemble)?;
            let serving = record.versions.values().rev().find(|version| version.live.is_some());
            let version = serving.or_else(|| record.versions.values().next_back())?;
            (record.presence, Arc::clone(&version.config))
        };
        match presence {
            Presence::Absent => None,
            Presence::Suspended => Some(false),
            Presence::Serving => match self.check_ensemble(&served, &BTreeMap::new()) {
                Ok(checked) => (checked.decoupled != served.decoupled || checked.nesting != served.nesting).then_some(true),
                Err(problem) => {
                    self.change(|records| records.suspend(ensemble, &problem.to_string()));
                    None
                }
            },
        }
    }

    /// Unloads a model: when this returns it takes no more requests; those it has are finished. With
    /// `dependents`, so are the composing models that were loaded only along with it and that nothing else uses.
    ///
    /// # Errors
    /// [`ControlError::NotExplicit`], [`ControlError::ServerExiting`]. A model that is not known is no error.
    pub async fn unload(&self, name: &str, dependents: bool) -> Result<(), ControlError> {
        self.check_control()?;
        let this = self.this.upgrade().ok_or(ControlError::ServerExiting)?;
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let mut pending = this.unload_one(&name).await;
            while let Some(model) = pending.pop().filter(|_| dependents) {
                if this.is_only_along(&model) {
                    pending.extend(this.unload_one(&model).await);
                }
            }
        });
        task.await.map_err(|_| ControlError::ServerExiting)
    }

    /// Whether a model is loaded only because of ensembles that are not loaded any more.
    fn is_only_along(&self, model: &str) -> bool {
        let records = self.lock();
        let is_along = records.get(model).is_some_and(|record| record.presence != Presence::Absent && !record.by_name);
        let serves = |ensemble: &String| records.get(ensemble).is_some_and(|record| record.presence == Presence::Serving);
        is_along && !records.dependents(model).iter().any(serves)
    }

    /// Unloads one model and returns those it was made of.
    async fn unload_one(&self, name: &str) -> Vec<String> {
        let _gate = self.gates.enter(name).await;
        self.change(|records| {
            records.retire(name, |_| false, UNLOADED);
            let Some(record) = records.get_mut(name) else {
                return Vec::new();
            };
            record.presence = Presence::Absent;
            record.by_name = false;
            record.overlay = None;
            record.failure = None;
            if record.required == Requirement::Failed {
                record.required = Requirement::None;
            }
            let dependencies = record.definition.take().map(|definition| definition.dependencies().clone());
            records.suspend_dependents(name);
            records.forget_empty(name);
            dependencies.unwrap_or_default().into_iter().collect()
        })
    }

    /// Has every scheduler start what it holds back. Called when no new requests are taken: those that wait for more to
    /// come would wait in vain.
    pub fn release(&self) {
        self.table.load().handles().for_each(crate::scheduler::ModelHandle::release);
    }

    /// Takes every model out of service for good, and waits until the last of their requests is answered.
    pub async fn shutdown(&self) {
        self.exiting.store(true, Ordering::Release);
        let mut changes = self.subscribe();
        self.change(super::records::Records::retire_all);
        while self.alive.load(Ordering::Acquire) > 0 {
            // The sender lives in the repository itself, so this only ends by a change.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn check_name(name: &str) -> Result<(), ControlError> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        Err(ControlError::EmptyName)
    } else if trimmed.contains('/') || trimmed == ".." {
        Err(ControlError::BadName { name: name.to_owned() })
    } else if trimmed.contains('\0') {
        // No file and no thread can bear such a name.
        let reason = "the name of a model cannot contain a NUL character".to_owned();
        Err(ControlError::NotFound { model: name.to_owned(), reason: Some(reason) })
    } else {
        Ok(())
    }
}

/// The error of a load in which versions failed, each with its reason.
pub(super) fn version_failure(model: &str, failed: &[(u64, String)]) -> ControlError {
    let clauses = failed.iter().map(|(version, reason)| format!("version {version} is at UNAVAILABLE state: {reason};\n"));
    ControlError::LoadFailed { model: model.to_owned(), clauses: clauses.collect() }
}
