//! What the page looks like.

use expect_test::expect;

use super::super::histogram::Histogram;
use super::super::host::{CpuReading, GpuReading, ProcessReading};
use super::super::statistics::{Counts, Distributions, ExecutedBatch, Formed, RequestTiming};
use super::*;

/// The page of these models, with what is off by default and ours off unless `change` says otherwise.
fn page(models: &[Series], change: impl FnOnce(&mut MetricsOptions)) -> String {
    let mut options = MetricsOptions { detailed: false, ..MetricsOptions::default() };
    change(&mut options);
    let host = HostReading::default();
    let by_model = vec![("m".to_owned(), 3, Duration::from_millis(250))];
    let (name, busy) = ("gpu0".to_owned(), Duration::from_millis(500));
    let devices = [DeviceSeries { name, slots: 2, busy, share: 0.125, executions: 7, by_model }];
    let memory =
        |kind, bytes| MemorySeries { device: "cuda:0".to_owned(), model: "m".to_owned(), version: "3".to_owned(), kind, bytes };
    let gpu_memory = [memory("weights", 4096), memory("pinned", 512)];
    let (host, options, devices, gpu_memory) = (&host, &options, &devices, &gpu_memory);
    render(&Page { models, host, options, devices, gpu_memory, requests_in_flight: 3, now: Timestamp::default() })
}

/// Only what is about models, without the machine.
fn of_models(page: &str) -> String {
    page.lines().take_while(|line| !line.contains("nv_cpu_")).map(|line| format!("{line}\n")).collect()
}

fn series(model: &str, is_loaded: bool) -> Series {
    let tally = |count, nanos| Tally { count, nanos };
    Series {
        model: model.to_owned(),
        version: 3,
        tags: [("zone-1".to_owned(), "a\"b\\c\nd".to_owned())].into(),
        recorded: Recorded {
            counts: Counts {
                inference_count: 12,
                execution_count: 4,
                success: tally(5, 7_000_999),
                failures: [1, 0, 2, 0],
                queue: tally(5, 1_000),
                compute_infer: tally(5, 999),
                cache_hit: tally(3, 2_000),
                cache_miss: tally(2, 9_000),
                ..Counts::default()
            },
            ..Recorded::default()
        },
        pending: vec![2],
        busy: vec![Duration::from_millis(1500)],
        load: Some(Load { busy: 0.5, saturation: 0.25 }),
        load_seconds: 0.25,
        is_loaded,
        is_cached: true,
    }
}

#[test]
fn the_page_has_every_family_and_escaped_sorted_labels() {
    expect![[r#"
        # HELP nv_inference_request_success Requests that were answered
        # TYPE nv_inference_request_success counter
        nv_inference_request_success{_zone_1="a\"b\\c\nd",model="m",version="3"} 5
        # HELP nv_inference_request_failure Requests that failed, by reason
        # TYPE nv_inference_request_failure counter
        nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="REJECTED",version="3"} 1
        nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="CANCELED",version="3"} 0
        nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="BACKEND",version="3"} 2
        nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="OTHER",version="3"} 0
        # HELP nv_inference_count Rows computed
        # TYPE nv_inference_count counter
        nv_inference_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 12
        # HELP nv_inference_exec_count Batches executed
        # TYPE nv_inference_exec_count counter
        nv_inference_exec_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 4
        # HELP nv_inference_request_duration_us Microseconds from the receipt of requests to their answers
        # TYPE nv_inference_request_duration_us counter
        nv_inference_request_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 7000
        # HELP nv_inference_queue_duration_us Microseconds of requests in queues
        # TYPE nv_inference_queue_duration_us counter
        nv_inference_queue_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 1
        # HELP nv_inference_compute_input_duration_us Microseconds of gathering inputs, per request
        # TYPE nv_inference_compute_input_duration_us counter
        nv_inference_compute_input_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
        # HELP nv_inference_compute_infer_duration_us Microseconds in the model, per request
        # TYPE nv_inference_compute_infer_duration_us counter
        nv_inference_compute_infer_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
        # HELP nv_inference_compute_output_duration_us Microseconds of splitting outputs, per request
        # TYPE nv_inference_compute_output_duration_us counter
        nv_inference_compute_output_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
        # HELP nv_inference_pending_request_count Requests that wait for execution
        # TYPE nv_inference_pending_request_count gauge
        nv_inference_pending_request_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
        # HELP nv_cache_num_hits_per_model Requests answered from the response cache
        # TYPE nv_cache_num_hits_per_model counter
        nv_cache_num_hits_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 3
        # HELP nv_cache_num_misses_per_model Requests whose answer was not in the response cache
        # TYPE nv_cache_num_misses_per_model counter
        nv_cache_num_misses_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
        # HELP nv_cache_hit_duration_per_model Microseconds of response cache lookups that found the answer
        # TYPE nv_cache_hit_duration_per_model counter
        nv_cache_hit_duration_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
        # HELP nv_cache_miss_duration_per_model Microseconds of response cache lookups that did not find the answer, and of putting it there
        # TYPE nv_cache_miss_duration_per_model counter
        nv_cache_miss_duration_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 9
        # HELP nv_model_load_duration_secs Seconds that the last load took
        # TYPE nv_model_load_duration_secs gauge
        nv_model_load_duration_secs{_zone_1="a\"b\\c\nd",model="m",version="3"} 0.25
    "#]]
    .assert_eq(&of_models(&page(&[series("m", true)], |_| ())));
}

#[test]
fn cache_families_are_of_models_that_are_cached() {
    let page = page(&[Series { is_cached: false, ..series("plain", true) }, series("cached", true)], |_| ());
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("nv_cache_")).collect();
    assert_eq!(lines.len(), CACHE_COUNTERS.len(), "{page}");
    assert!(lines.iter().all(|line| line.contains("model=\"cached\"")), "{page}");
}

#[test]
fn only_failures_are_left_of_what_was_unloaded() {
    let all = |options: &mut MetricsOptions| {
        (options.detailed, options.histogram_latencies, options.summary_latencies) = (true, true, true);
    };
    let page = page(&[series("gone", false)], all);
    let lines: Vec<&str> = page.lines().filter(|line| line.contains("gone")).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line.starts_with("nv_inference_request_failure{")), "{page}");
}

#[test]
fn counters_of_latency_can_be_left_out_and_nothing_else_goes() {
    let names = |page: &str| -> Vec<String> {
        page.lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    let (with, without) =
        (page(&[series("m", true)], |_| ()), page(&[series("m", true)], |options| options.counter_latencies = false));
    let gone: Vec<String> = names(&with).into_iter().filter(|name| !names(&without).contains(name)).collect();
    assert_eq!(gone, [REQUEST_DURATION, QUEUE_DURATION, COMPUTE_INPUT_DURATION, COMPUTE_INFER_DURATION, COMPUTE_OUTPUT_DURATION]);
    assert!(without.contains("nv_inference_request_success{"), "{without}");
}

#[test]
fn quantiles_and_first_responses_are_there_when_wanted() {
    let mut series = series("m", true);
    let mut first = Histogram::new(&[100_000_000, 500_000_000][..]);
    first.record(300_000_000);
    series.recorded.first_response = Some(first);
    let mut summaries = Summaries::default();
    summaries.request.record(Timestamp::default(), 40);
    series.recorded.summaries = Some(Box::new(summaries));
    series.tags.clear();
    let page = page(&[series], |options| {
        (options.histogram_latencies, options.summary_latencies, options.quantiles) = (true, true, vec![0.5]);
    });
    let shown = |name: &str| -> Vec<String> {
        page.lines().filter(|line| line.starts_with(name)).map(|line| line.replace("model=\"m\",version=\"3\"", "..")).collect()
    };
    expect![[r#"
        [
            "nv_inference_first_response_histogram_ms_bucket{..,le=\"100\"} 0",
            "nv_inference_first_response_histogram_ms_bucket{..,le=\"500\"} 1",
            "nv_inference_first_response_histogram_ms_bucket{..,le=\"+Inf\"} 1",
            "nv_inference_first_response_histogram_ms_sum{..} 300",
            "nv_inference_first_response_histogram_ms_count{..} 1",
        ]
    "#]]
    .assert_debug_eq(&shown(FIRST_RESPONSE));
    expect![[r#"
        [
            "nv_inference_request_summary_us{..,quantile=\"0.5\"} 40",
            "nv_inference_request_summary_us_sum{..} 40",
            "nv_inference_request_summary_us_count{..} 1",
        ]
    "#]]
    .assert_debug_eq(&shown(REQUEST_SUMMARY));
    for family in &SUMMARIES {
        assert_eq!(shown(family.name).len(), 3, "{}", family.name);
    }
}

#[test]
fn our_families_show_what_was_recorded() {
    let mut series = series("m", true);
    let mut distributions = Distributions::default();
    let formed = Formed { trigger: crate::batch::Trigger::Window, cost: 70, padding: 30, real: 70, ..Formed::default() };
    distributions.add_batch(&ExecutedBatch { rows: 5, formed: Some(formed), ..ExecutedBatch::default() });
    distributions.add_request(RequestTiming { total: Duration::from_millis(30), queue: Duration::from_millis(2) });
    series.recorded.distributions = Some(Box::new(distributions));
    series.recorded.counts.stages[1][2] = 4;
    series.pending = vec![2, 9];
    series.tags.clear();
    let page = page(&[series], |options| options.detailed = true);
    let shown: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with("alcedo_") && !line.ends_with(" 0") && !line.contains("_bucket"))
        .map(|line| line.replace("model=\"m\"", ".."))
        .collect();
    expect![[r#"
        alcedo_request_seconds_sum{..,version="3"} 0.03
        alcedo_request_seconds_count{..,version="3"} 1
        alcedo_queue_seconds_sum{..,version="3"} 0.002
        alcedo_queue_seconds_count{..,version="3"} 1
        alcedo_batch_assembly_seconds_count{..,version="3"} 1
        alcedo_compute_input_seconds_count{..,version="3"} 1
        alcedo_compute_infer_seconds_count{..,version="3"} 1
        alcedo_compute_output_seconds_count{..,version="3"} 1
        alcedo_batch_rows_sum{..,version="3"} 5
        alcedo_batch_rows_count{..,version="3"} 1
        alcedo_batch_cost_sum{..,version="3"} 70
        alcedo_batch_cost_count{..,version="3"} 1
        alcedo_batch_padding_ratio_sum{..,version="3"} 0.3
        alcedo_batch_padding_ratio_count{..,version="3"} 1
        alcedo_batch_real_elements_total{..,version="3"} 70
        alcedo_batch_padding_elements_total{..,version="3"} 30
        alcedo_batches_total{..,trigger="window",version="3"} 1
        alcedo_queue_depth{level="1",..,version="3"} 2
        alcedo_queue_depth{level="2",..,version="3"} 9
        alcedo_requests_lost_total{cause="expired",..,stage="queue",version="3"} 4
        alcedo_instance_busy_seconds_total{instance="0",..,version="3"} 1.5
        alcedo_instance_busy_ratio{..,version="3"} 0.5
        alcedo_saturation{..,version="3"} 0.25
        alcedo_saturation_max 0.25
        alcedo_device_slots{device="gpu0"} 2
        alcedo_device_busy_seconds_total{device="gpu0"} 0.5
        alcedo_device_busy_ratio{device="gpu0"} 0.125
        alcedo_device_executions_total{device="gpu0"} 7
        alcedo_device_model_busy_seconds_total{device="gpu0",..,version="3"} 0.25
        alcedo_gpu_memory_bytes{device="cuda:0",kind="weights",..,version="3"} 4096
        alcedo_gpu_memory_bytes{device="cuda:0",kind="pinned",..,version="3"} 512
        alcedo_requests_in_flight 3"#]]
    .assert_eq(&shown.join("\n"));
    let fast = "alcedo_request_seconds_bucket{model=\"m\",version=\"3\",le=\"0.025\"} 0";
    let slow = "alcedo_request_seconds_bucket{model=\"m\",version=\"3\",le=\"0.05\"} 1";
    assert!(page.contains(fast) && page.contains(slow), "{page}");
}

#[test]
fn every_family_is_declared_without_any_model() {
    let page = page(&[], |options| {
        (options.detailed, options.histogram_latencies, options.summary_latencies) = (true, true, true);
    });
    let declared: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let names: std::collections::BTreeSet<&str> = declared.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), declared.len(), "a family is declared twice: {declared:?}");
    for name in [REQUEST_FAILURE, host::GPU_UTILIZATION, host::CPU_UTILIZATION, detail::SATURATION, FIRST_RESPONSE, CACHE_HITS] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}

#[test]
fn the_machine_is_shown_as_far_as_it_is_known() {
    let gpu = GpuReading { uuid: "GPU-1".to_owned(), utilization: Some(0.25), memory_total: Some(80), ..GpuReading::default() };
    let host = HostReading {
        cpu: Some(CpuReading { utilization: None, memory_total: 100, memory_used: 40 }),
        gpus: vec![gpu],
        process: Some(ProcessReading { resident_bytes: 7, cpu_seconds: 1.5 }),
    };
    let options = MetricsOptions { detailed: false, ..MetricsOptions::default() };
    let page = render(&Page {
        models: &[],
        host: &host,
        options: &options,
        devices: &[],
        gpu_memory: &[],
        requests_in_flight: 0,
        now: Timestamp::default(),
    });
    let shown: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
    expect![[r#"
        nv_cpu_memory_total_bytes 100
        nv_cpu_memory_used_bytes 40
        nv_gpu_utilization{gpu_uuid="GPU-1"} 0.25
        nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 80
        nv_pinned_memory_pool_total_bytes 0
        nv_pinned_memory_pool_used_bytes 0"#]]
    .assert_eq(&shown.join("\n"));
}
