//! The families that are ours: distributions of latencies and batches, queues by priority, losses by stage, load.

use super::super::histogram::Histogram;
use super::super::saturation::MAX_SATURATION;
use super::super::statistics::{Cause, Distributions, Stage};
use super::exposition::{COUNTER, Exposition, GAUGE, Labels, number};
use super::{DeviceSeries, Page, Series};
use crate::batch::Trigger;

/// Histogram of seconds from receipt to answer.
pub const REQUEST: &str = "alcedo_request_seconds";
/// Histogram of seconds in queues.
pub const QUEUE: &str = "alcedo_queue_seconds";
/// Histogram of seconds from the formation of batches to their execution.
pub const ASSEMBLY: &str = "alcedo_batch_assembly_seconds";
/// Histogram of seconds of gathering inputs.
pub const COMPUTE_INPUT: &str = "alcedo_compute_input_seconds";
/// Histogram of seconds in the model.
pub const COMPUTE_INFER: &str = "alcedo_compute_infer_seconds";
/// Histogram of seconds of splitting outputs.
pub const COMPUTE_OUTPUT: &str = "alcedo_compute_output_seconds";
/// Histogram of rows per batch.
pub const BATCH_ROWS: &str = "alcedo_batch_rows";
/// Histogram of cost per batch.
pub const BATCH_COST: &str = "alcedo_batch_cost";
/// Histogram of the share of padding per batch.
pub const BATCH_PADDING: &str = "alcedo_batch_padding_ratio";
/// Counter of elements that were asked for, of models that pad.
pub const REAL_ELEMENTS: &str = "alcedo_batch_real_elements_total";
/// Counter of elements that were padding.
pub const PADDING_ELEMENTS: &str = "alcedo_batch_padding_elements_total";
/// Counter of batches by trigger.
pub const BATCHES: &str = "alcedo_batches_total";
/// Gauge of waiting requests by priority level.
pub const QUEUE_DEPTH: &str = "alcedo_queue_depth";
/// Counter of requests that came to nothing, by stage and cause.
pub const LOST: &str = "alcedo_requests_lost_total";
/// Counter of seconds in which an instance ran batches.
pub const INSTANCE_BUSY: &str = "alcedo_instance_busy_seconds_total";
/// Gauge of the share of the last interval in which instances ran batches.
pub const BUSY_RATIO: &str = "alcedo_instance_busy_ratio";
/// Gauge to scale by.
pub const SATURATION: &str = "alcedo_saturation";
/// Gauge of the highest saturation of all models.
pub const SATURATION_MAX: &str = "alcedo_saturation_max";
/// Gauge of the slots of a device, of which an execution takes one for each of its threads.
pub const DEVICE_SLOTS: &str = "alcedo_device_slots";
/// Counter of seconds in which a device was used, in all slots together.
pub const DEVICE_BUSY: &str = "alcedo_device_busy_seconds_total";
/// Gauge of the share of the last interval in which a device was used.
pub const DEVICE_BUSY_RATIO: &str = "alcedo_device_busy_ratio";
/// Counter of executions on a device.
pub const DEVICE_EXECUTIONS: &str = "alcedo_device_executions_total";
/// Counter of seconds in which a model used a device.
pub const DEVICE_MODEL_BUSY: &str = "alcedo_device_model_busy_seconds_total";
/// Gauge of the memory that models take for a GPU, by what it is for.
pub const GPU_MEMORY: &str = "alcedo_gpu_memory_bytes";
/// Counter of batches that were cut in two because a device was short of memory.
pub const SPLITS: &str = "alcedo_batch_splits_total";
/// Gauge of requests between receipt and answer.
pub const IN_FLIGHT: &str = "alcedo_requests_in_flight";

struct HistogramFamily {
    name: &'static str,
    help: &'static str,
    /// What values are divided by.
    unit: f64,
    of: fn(&Distributions) -> &Histogram,
    /// Whether ensembles have it: they form no batches.
    of_ensembles: bool,
}

const SECONDS: f64 = 1e9;

const HISTOGRAMS: [HistogramFamily; 9] = [
    HistogramFamily {
        name: REQUEST,
        help: "Seconds from the receipt of a request to its answer",
        unit: SECONDS,
        of: |all| &all.request,
        of_ensembles: true,
    },
    HistogramFamily {
        name: QUEUE,
        help: "Seconds of a request between its queue entry and the start of its execution",
        unit: SECONDS,
        of: |all| &all.queue,
        of_ensembles: true,
    },
    HistogramFamily {
        name: ASSEMBLY,
        help: "Seconds between the formation of a batch and the start of its execution",
        unit: SECONDS,
        of: |all| &all.assembly,
        of_ensembles: false,
    },
    HistogramFamily {
        name: COMPUTE_INPUT,
        help: "Seconds of gathering the inputs of a batch",
        unit: SECONDS,
        of: |all| &all.compute_input,
        of_ensembles: true,
    },
    HistogramFamily {
        name: COMPUTE_INFER,
        help: "Seconds of a batch in the model",
        unit: SECONDS,
        of: |all| &all.compute_infer,
        of_ensembles: true,
    },
    HistogramFamily {
        name: COMPUTE_OUTPUT,
        help: "Seconds of splitting the outputs of a batch",
        unit: SECONDS,
        of: |all| &all.compute_output,
        of_ensembles: true,
    },
    HistogramFamily { name: BATCH_ROWS, help: "Rows of a batch", unit: 1.0, of: |all| &all.rows, of_ensembles: false },
    HistogramFamily {
        name: BATCH_COST,
        help: "Cost of a batch in the unit of its model",
        unit: 1.0,
        of: |all| &all.cost,
        of_ensembles: false,
    },
    HistogramFamily {
        name: BATCH_PADDING,
        help: "Share of the elements of a batch that were padding",
        unit: 1000.0,
        of: |all| &all.padding_share,
        of_ensembles: false,
    },
];

/// Writes the families of loaded models.
pub(super) fn write(page: &mut Exposition, content: &Page<'_>) {
    let loaded: Vec<(&Series, &Distributions, Labels)> = content
        .models
        .iter()
        .filter(|series| series.is_loaded)
        .filter_map(|series| Some((series, series.recorded.distributions.as_deref()?, series.labels())))
        .collect();
    for family in &HISTOGRAMS {
        page.family(family.name, family.help, "histogram");
        for (_, distributions, labels) in loaded.iter().filter(|(series, ..)| family.of_ensembles || series.has_instances()) {
            page.histogram(family.name, labels, (family.of)(distributions), family.unit);
        }
    }
    batches(page, &loaded);
    page.family(QUEUE_DEPTH, "Requests that wait for execution, by priority level", GAUGE);
    for (series, _, labels) in &loaded {
        for (index, depth) in series.pending.iter().enumerate() {
            page.value(QUEUE_DEPTH, &labels.with("level", index + 1), number(*depth));
        }
    }
    page.family(LOST, "Requests that came to nothing, by where and why", COUNTER);
    for (series, _, labels) in &loaded {
        for (stage, causes) in Stage::ALL.iter().zip(&series.recorded.counts.stages) {
            for (cause, count) in Cause::ALL.iter().zip(causes) {
                page.value(LOST, &labels.with("stage", stage.as_str()).with("cause", cause.as_str()), number(*count));
            }
        }
    }
    load(page, &loaded);
    devices(page, content.devices);
    page.family(GPU_MEMORY, "Bytes that models take for a GPU, by what they are for; pinned ones are memory of the host", GAUGE);
    for line in content.gpu_memory {
        let labels = Labels::default().with("device", &line.device).with("model", &line.model);
        let labels = labels.with("version", &line.version).with("kind", line.kind);
        page.value(GPU_MEMORY, &labels, number(line.bytes));
    }
    page.family(IN_FLIGHT, "Requests between receipt and answer", GAUGE);
    page.value(IN_FLIGHT, &Labels::default(), number(content.requests_in_flight));
}

fn batches(page: &mut Exposition, loaded: &[(&Series, &Distributions, Labels)]) {
    let batching = || loaded.iter().filter(|(series, ..)| series.has_instances());
    page.family(REAL_ELEMENTS, "Elements, such as tokens, that batches were asked for, of models that pad", COUNTER);
    for (_, distributions, labels) in batching() {
        page.value(REAL_ELEMENTS, labels, number(distributions.real));
    }
    page.family(PADDING_ELEMENTS, "Elements of batches that were padding", COUNTER);
    for (_, distributions, labels) in batching() {
        page.value(PADDING_ELEMENTS, labels, number(distributions.padding));
    }
    page.family(BATCHES, "Batches executed, by what made them form when they did", COUNTER);
    for (_, distributions, labels) in batching() {
        for (trigger, count) in Trigger::ALL.iter().zip(distributions.triggers) {
            page.value(BATCHES, &labels.with("trigger", trigger.as_str()), number(count));
        }
    }
    page.family(SPLITS, "Batches, and parts of them, cut in two because their device was short of memory", COUNTER);
    for (series, _, labels) in batching() {
        page.value(SPLITS, labels, number(series.recorded.counts.splits));
    }
}

fn load(page: &mut Exposition, loaded: &[(&Series, &Distributions, Labels)]) {
    page.family(INSTANCE_BUSY, "Seconds in which an instance ran batches", COUNTER);
    for (series, _, labels) in loaded {
        for (instance, busy) in series.busy.iter().enumerate() {
            page.value(INSTANCE_BUSY, &labels.with("instance", instance), busy.as_secs_f64());
        }
    }
    page.family(BUSY_RATIO, "Share of the last interval in which the instances of a model ran batches", GAUGE);
    for (series, _, labels) in loaded {
        if let Some(load) = series.load {
            page.value(BUSY_RATIO, labels, load.busy);
        }
    }
    page.family(SATURATION, "Load of a model in parts of what its instances can carry, beyond 1 where they cannot", GAUGE);
    let mut highest = 0.0f64;
    for (series, _, labels) in loaded {
        if let Some(load) = series.load {
            highest = highest.max(load.saturation);
            page.value(SATURATION, labels, load.saturation);
        }
    }
    page.family(SATURATION_MAX, "The highest saturation of all models", GAUGE);
    page.value(SATURATION_MAX, &Labels::default(), highest.min(MAX_SATURATION));
}

fn devices(page: &mut Exposition, devices: &[DeviceSeries]) {
    let labels = |device: &DeviceSeries| Labels::default().with("device", &device.name);
    page.family(DEVICE_SLOTS, "Slots of a device, of which an execution takes one for each of its threads", GAUGE);
    for device in devices {
        page.value(DEVICE_SLOTS, &labels(device), number(u64::try_from(device.slots).unwrap_or(u64::MAX)));
    }
    page.family(DEVICE_BUSY, "Seconds in which a device was used, in all slots together", COUNTER);
    for device in devices {
        page.value(DEVICE_BUSY, &labels(device), device.busy.as_secs_f64());
    }
    page.family(DEVICE_BUSY_RATIO, "Share of the last interval in which a device was used", GAUGE);
    for device in devices {
        page.value(DEVICE_BUSY_RATIO, &labels(device), device.share);
    }
    page.family(DEVICE_EXECUTIONS, "Executions on a device", COUNTER);
    for device in devices {
        page.value(DEVICE_EXECUTIONS, &labels(device), number(device.executions));
    }
    page.family(DEVICE_MODEL_BUSY, "Seconds in which a model used a device, in all slots together", COUNTER);
    for device in devices {
        for (model, version, busy) in &device.by_model {
            let labels = labels(device).with("model", model).with("version", version);
            page.value(DEVICE_MODEL_BUSY, &labels, busy.as_secs_f64());
        }
    }
}
